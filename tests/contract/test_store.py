"""What a store promises, held against a real shard and against the one in memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from consumer.folding import RowChange, fold
from consumer.once import KeyUse, KnownUses
from consumer.store import APPLIED_BEFORE, APPLY, Applied, ShardStore, open_store
from shared.errors import Rejected, Transient
from shared.settings import ShardDirectory
from shared.topology import ShardMap
from shared.updates import Scalar, Update
from tests.fake_store import NUL, FakeStore
from tests.records import APP, body_of, once_of, pending_of, subscription, update_of
from verification.model import model_of
from verification.oracle import read_rows


def change_of(first_offset: int, *updates: Update) -> RowChange:
    return fold([pending_of(first_offset + i, update) for i, update in enumerate(updates)])


def use_of(key: int, offset: int, number: int = 1, body: int = 0, at_ms: int = 0) -> KeyUse:
    return KeyUse(APP, subscription(number), once_of(key, body), offset, at_ms)


def asked_for(keys: Sequence[int], number: int) -> Sequence[tuple[str, str, str]]:
    return [(APP, subscription(number), once_of(key).key) for key in keys]


Reasons = Sequence[tuple[str, str | None] | None]
"""Reason and SQLSTATE of each change that is refused."""


def reasons(judged: Sequence[Rejected | None]) -> Reasons:
    return [(each.reason, each.sqlstate) if each else None for each in judged]


class Shard(Protocol):
    """A store, another of a later topic epoch over the same rows, and a way to look at them."""

    async def apply(
        self,
        *changes: RowChange,
        epoch: int = 0,
        create: bool = True,
        uses: Sequence[KeyUse] = (),
    ) -> Applied: ...
    async def known(self, *keys: int, number: int = 1) -> KnownUses: ...
    async def forget(self, before_ms: int, rows_max: int = 100) -> int: ...
    async def find_locked(self, *changes: RowChange) -> Sequence[bool]: ...
    async def find_unreadable(self, *changes: RowChange) -> Reasons: ...
    async def find_overfull(self, *changes: RowChange, create: bool = True) -> Reasons: ...
    async def row(self, number: int) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None: ...
    def locking(self, number: int) -> AbstractAsyncContextManager[None]:
        """Somebody else's transaction that has locked a row."""

    def inserting(self, number: int) -> AbstractAsyncContextManager[None]:
        """Somebody else's transaction that has made a row, and is given up in the end."""


class FakeShard:
    def __init__(self) -> None:
        self._store = FakeStore()

    async def find_locked(self, *changes: RowChange) -> Sequence[bool]:
        return await self._store.find_locked(changes)

    async def find_unreadable(self, *changes: RowChange) -> Reasons:
        return reasons(await self._store.find_unreadable(changes))

    async def find_overfull(self, *changes: RowChange, create: bool = True) -> Reasons:
        self._store.topic_epoch, self._store.create_missing = 0, create
        return reasons(await self._store.find_overfull(changes))

    @asynccontextmanager
    async def locking(self, number: int) -> AsyncIterator[None]:
        self._store.locked.add((APP, subscription(number)))
        yield
        self._store.locked.clear()

    @asynccontextmanager
    async def inserting(self, number: int) -> AsyncIterator[None]:
        self._store.inserting.add((APP, subscription(number)))
        yield
        self._store.inserting.clear()

    async def apply(
        self,
        *changes: RowChange,
        epoch: int = 0,
        create: bool = True,
        uses: Sequence[KeyUse] = (),
    ) -> Applied:
        self._store.topic_epoch, self._store.create_missing = epoch, create
        return await self._store.apply(changes, uses)

    async def known(self, *keys: int, number: int = 1) -> KnownUses:
        self._store.topic_epoch = 0
        return await self._store.first_uses(asked_for(keys, number))

    async def forget(self, before_ms: int, rows_max: int = 100) -> int:
        return await self._store.forget_uses({0: before_ms, 1: 2**50}, rows_max=rows_max)

    async def row(self, number: int) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        row = self._store.rows.get((APP, subscription(number)))
        return (row.tags, row.properties) if row else None


class RealShard:
    def __init__(
        self,
        dsn: SecretStr,
        stack: AsyncExitStack,
        *,
        read_from: SecretStr | None = None,
        pooled: bool = False,
    ) -> None:
        self._dsn = dsn
        self._read_from = read_from or dsn
        self._pooled = pooled
        self._stack = stack
        self._stores: dict[tuple[int, bool], ShardStore] = {}

    async def apply(
        self,
        *changes: RowChange,
        epoch: int = 0,
        create: bool = True,
        uses: Sequence[KeyUse] = (),
    ) -> Applied:
        return await (await self._store(epoch, create=create)).apply(changes, uses)

    async def known(self, *keys: int, number: int = 1) -> KnownUses:
        return await (await self._store(0, create=True)).first_uses(asked_for(keys, number))

    async def forget(self, before_ms: int, rows_max: int = 100) -> int:
        store = await self._store(0, create=True)
        return await store.forget_uses({0: before_ms, 1: 2**50}, rows_max=rows_max)

    async def find_locked(self, *changes: RowChange) -> Sequence[bool]:
        return await (await self._store(0, create=True)).find_locked(changes)

    async def find_unreadable(self, *changes: RowChange) -> Reasons:
        return reasons(await (await self._store(0, create=True)).find_unreadable(changes))

    async def find_overfull(self, *changes: RowChange, create: bool = True) -> Reasons:
        return reasons(await (await self._store(0, create=create)).find_overfull(changes))

    async def _store(self, epoch: int, *, create: bool) -> ShardStore:
        if (epoch, create) not in self._stores:
            self._stores[epoch, create] = await self._stack.enter_async_context(
                open_store(
                    self._dsn,
                    connections_max=1,
                    connect_timeout_s=10,
                    statement_timeout_s=10,
                    lock_timeout_s=0.1,
                    topic_epoch=epoch,
                    create_missing=create,
                    pooled=self._pooled,
                )
            )
        return self._stores[epoch, create]

    @asynccontextmanager
    async def locking(self, number: int) -> AsyncIterator[None]:
        async with self._others_transaction() as others:
            await others.execute(
                "SELECT FROM subscriptions WHERE subscription_id = $1 FOR UPDATE",
                subscription(number),
            )
            yield

    @asynccontextmanager
    async def inserting(self, number: int) -> AsyncIterator[None]:
        async with self._others_transaction() as others:
            await others.execute(
                "INSERT INTO subscriptions VALUES ($1, $2, '{}', '{}', now(), now(), 0, 0)",
                APP,
                subscription(number),
            )
            yield

    @asynccontextmanager
    async def _others_transaction(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        connection = await asyncpg.connect(self._read_from.get_secret_value())
        try:
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
        finally:
            await connection.close()

    async def row(self, number: int) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        directory = ShardDirectory(ShardMap.equal(1), {"shard-0": self._read_from})
        found = (await read_rows(directory, [APP])).get((APP, subscription(number)))
        return (found.tags, found.properties) if found else None


class StoreContract:
    """Every test runs on both."""

    async def test_a_row_that_is_missing_is_created(self, shard: Shard) -> None:
        applied = await shard.apply(
            change_of(5, update_of(1, tags={"a": 1, "gone": None}, increment={"session_count": 2}))
        )

        assert applied == Applied([5], [True])
        assert await shard.row(1) == ({"a": Decimal(1)}, {"session_count": Decimal(2)})

    async def test_sets_unsets_and_increments_add_up_as_in_the_model(self, shard: Shard) -> None:
        sequence = [
            update_of(1, tags={"plan": "pro", "level": 0.1, "flag": True, "text": "7"}),
            update_of(1, tags={"plan": None}, increment_tags={"level": 3, "flag": 1, "text": 1}),
            update_of(1, properties={"language": "en", "enabled": False}),
            update_of(1, properties={"language": None}, increment={"session_time_s": 2**40}),
            update_of(1, tags={"ünï": "✓ 東京", "level": -1.5e-7}, increment_tags={"level": 1}),
        ]

        for offset, update in enumerate(sequence):
            await shard.apply(change_of(offset, update))

        expected = model_of(body_of(update) for update in sequence)
        assert await shard.row(1) == (expected.tags, expected.properties)

    async def test_a_change_that_comes_again_changes_nothing(self, shard: Shard) -> None:
        change = change_of(5, update_of(1, increment={"session_count": 1}))
        await shard.apply(change)

        again = await shard.apply(change)

        assert again == Applied([5], [False])
        assert await shard.row(1) == ({}, {"session_count": Decimal(1)})

    async def test_an_older_change_is_refused_and_told_where_the_row_stands(
        self, shard: Shard
    ) -> None:
        await shard.apply(change_of(9, update_of(1, tags={"n": 9})))

        applied = await shard.apply(change_of(3, update_of(1, tags={"n": 3})))

        assert applied == Applied([9], [False])
        assert await shard.row(1) == ({"n": Decimal(9)}, {})

    async def test_a_fold_that_straddles_the_position_is_not_applied_in_part(
        self, shard: Shard
    ) -> None:
        one = update_of(1, increment={"session_count": 1})
        await shard.apply(change_of(0, one, one))

        applied = await shard.apply(change_of(1, one, one, one))

        assert applied == Applied([1], [False])
        assert await shard.row(1) == ({}, {"session_count": Decimal(2)})

    async def test_some_rows_of_a_statement_may_be_behind_and_others_not(
        self, shard: Shard
    ) -> None:
        await shard.apply(change_of(7, update_of(1, tags={"n": 7})))

        applied = await shard.apply(
            change_of(6, update_of(1, tags={"n": 6})), change_of(8, update_of(2, tags={"n": 8}))
        )

        assert applied == Applied([7, 8], [False, True])
        assert await shard.row(2) == ({"n": Decimal(8)}, {})

    async def test_each_change_of_a_statement_has_only_its_own_members(self, shard: Shard) -> None:
        members: list[dict[str, Any]] = [
            {"increment": {"session_count": 1}},
            {"tags": {"a": 'two\nlines, "{quoted}"'}},
            {},
            {"properties": {"language": "en"}, "increment_tags": {"level": 2}},
        ]
        await shard.apply(*(change_of(0, update_of(n, tags={"b": 1})) for n in range(4)))

        applied = await shard.apply(*(change_of(1, update_of(n, **members[n])) for n in range(4)))

        assert applied == Applied([1] * 4, [True] * 4)
        one = Decimal(1)
        assert [await shard.row(number) for number in range(4)] == [
            ({"b": one}, {"session_count": one}),
            ({"b": one, "a": 'two\nlines, "{quoted}"'}, {}),
            ({"b": one}, {}),
            ({"b": one, "level": Decimal(2)}, {"language": "en"}),
        ]

    async def test_a_missing_row_is_left_missing_where_none_is_to_be_created(
        self, shard: Shard
    ) -> None:
        applied = await shard.apply(change_of(0, update_of(1, tags={"n": 1})), create=False)

        assert applied == Applied([None], [False])
        assert await shard.row(1) is None

    async def test_a_later_topic_epoch_starts_over_and_an_earlier_one_is_over(
        self, shard: Shard
    ) -> None:
        await shard.apply(change_of(900, update_of(1, tags={"n": 1})))

        later = await shard.apply(change_of(0, update_of(1, tags={"n": 2})), epoch=1)
        earlier = await shard.apply(change_of(901, update_of(1, tags={"n": 3})))

        assert later == Applied([0], [True])
        assert earlier == Applied([APPLIED_BEFORE], [False])
        assert await shard.row(1) == ({"n": Decimal(2)}, {})

    async def test_a_key_is_kept_with_the_change_that_used_it(self, shard: Shard) -> None:
        change = change_of(5, update_of(1, increment={"session_count": 1}))
        use = use_of(7, offset=5, body=3, at_ms=1_700_000_000_123)

        assert await shard.known(7) == {}
        applied = await shard.apply(change, uses=[use])

        assert applied == Applied([5], [True])
        assert await shard.known(7, 8) == {(APP, subscription(1), use.once.key): use}
        assert await shard.known(7, number=2) == {}

    async def test_no_key_is_kept_of_a_change_that_does_not_apply(self, shard: Shard) -> None:
        await shard.apply(change_of(9, update_of(1)))

        older = await shard.apply(
            change_of(8, update_of(1), update_of(1)),
            change_of(8, update_of(2)),
            uses=[use_of(1, offset=9), use_of(2, offset=8, number=2)],
        )
        missing = await shard.apply(
            change_of(10, update_of(3)), create=False, uses=[use_of(3, offset=10, number=3)]
        )
        with pytest.raises(Rejected):
            await shard.apply(
                change_of(11, update_of(1, tags={"bad": NUL})), uses=[use_of(4, offset=11)]
            )

        assert older == Applied([9, 8], [False, True])
        assert missing == Applied([None], [False])
        assert await shard.known(1, 4) == {}
        assert len(await shard.known(2, number=2)) == 1
        assert await shard.known(3, number=3) == {}

    async def test_a_key_that_is_used_anew_is_known_by_its_last_use(self, shard: Shard) -> None:
        await shard.apply(change_of(0, update_of(1)), uses=[use_of(1, offset=0, body=1)])
        again = use_of(1, offset=6, body=2, at_ms=9)

        await shard.apply(change_of(5, update_of(1), update_of(1)), uses=[again])

        assert list((await shard.known(1)).values()) == [again]

    async def test_uses_of_other_topic_epochs_are_before_or_after_all(self, shard: Shard) -> None:
        await shard.apply(change_of(900, update_of(1)), uses=[use_of(1, offset=900)], epoch=0)
        await shard.apply(change_of(4, update_of(2)), uses=[use_of(2, 4, number=2)], epoch=1)

        [later] = (await shard.known(2, number=2)).values()

        assert later.offset == APPLIED_BEFORE

    async def test_old_uses_are_forgotten_by_partition_a_few_at_a_time(self, shard: Shard) -> None:
        uses = [use_of(key, offset=key, at_ms=1_000 * key) for key in range(6)]
        await shard.apply(change_of(0, *[update_of(1)] * 6), uses=uses)

        forgotten = [await shard.forget(4_000, rows_max=3) for _ in range(3)]

        assert forgotten == [3, 1, 0]
        assert {use.offset for use in (await shard.known(*range(6))).values()} == {4, 5}

    async def test_data_that_is_refused_takes_nothing_of_its_statement_along(
        self, shard: Shard
    ) -> None:
        with pytest.raises(Rejected) as caught:
            await shard.apply(
                change_of(0, update_of(1, tags={"n": 1})),
                change_of(1, update_of(2, tags={"bad": NUL})),
            )

        assert caught.value.sqlstate == "22P05"
        assert await shard.row(1) is None

    async def test_what_is_unreadable_is_found(self, shard: Shard) -> None:
        found = await shard.find_unreadable(
            change_of(1, update_of(1, tags={"a": 1.5, "b": "\\u0000"}, properties={"n": "ü"})),
            change_of(1, update_of(2, tags={"a": NUL})),
            change_of(1, update_of(3, increment={"session_count": 1}, increment_tags={"a": 1})),
            change_of(1, update_of(4, properties={"language": NUL})),
        )

        assert found == [None, ("refused", "22P05"), None, ("refused", "22P05")]

    @pytest.mark.parametrize(
        "scalar",
        [
            1.7976931348623157e308,
            5e-324,
            -0.0,
            10**4300 - 1,
            "\x01\x1f\x7f\uffff\ufffe\U0010ffff",
            "\\u0000",
            "x" * 100_000,
        ],
    )
    async def test_the_most_unusual_that_an_update_may_hold_is_readable(
        self, shard: Shard, scalar: Scalar
    ) -> None:
        """So a NUL is all that needs to be suspected."""
        name = scalar[:50] if isinstance(scalar, str) else "a"
        change = change_of(1, update_of(1, tags={name: scalar}))

        assert await shard.find_unreadable(change) == [None]
        await shard.apply(change)

    async def test_what_makes_its_row_overfull_is_found(self, shard: Shard) -> None:
        await shard.apply(change_of(0, update_of(1, tags={f"{n}": n for n in range(199)})))
        too_many = {f"{n}": n for n in range(201)}

        found = await shard.find_overfull(
            change_of(1, update_of(1, tags={"0": None, "a": 1, "b": 2})),
            change_of(1, update_of(1, tags={"a": 1}, increment_tags={"b": 2})),
            change_of(0, update_of(1, tags={"a": 1, "b": 2})),
            change_of(1, update_of(1, tags={"a": 1, "b": NUL})),
            change_of(1, update_of(2, tags=too_many)),
        )
        ignored = await shard.find_overfull(change_of(1, update_of(2, tags=too_many)), create=False)

        full = ("too_many_tags", "23514")
        assert found == [None, full, None, None, full]
        assert ignored == [None]
        assert await shard.row(2) is None

    @pytest.mark.parametrize(
        "value", [True, 1, "x" * 2_000], ids=["least", "compressed", "out of line"]
    )
    async def test_the_one_tag_too_many_is_found_however_little_space_tags_take(
        self, shard: Shard, value: Scalar
    ) -> None:
        """The least is little enough to be neither compressed nor put out of line."""
        names = [chr(1 + n) for n in range(127)] + [f"{n}" for n in range(10, 84)]
        tags = dict.fromkeys(names[:200], value)
        await shard.apply(change_of(0, update_of(1, tags=tags)), change_of(0, update_of(2)))

        found = await shard.find_overfull(
            change_of(1, update_of(1, tags={names[200]: 1})),
            change_of(1, update_of(1, increment_tags={"": 1})),
            change_of(1, update_of(1, tags={names[0]: 2})),
            change_of(1, update_of(2, tags=dict.fromkeys([*names[:200], ""], 1))),
            change_of(1, update_of(2, tags=dict.fromkeys(names[:200], 1))),
        )

        full = ("too_many_tags", "23514")
        assert found == [full, full, None, full, None]

    async def test_a_row_that_others_hold_is_found_and_nothing_of_its_statement_written(
        self, shard: Shard
    ) -> None:
        await shard.apply(change_of(0, update_of(1)), change_of(1, update_of(2)))
        changes = [change_of(2 + n, update_of(n, tags={"n": n})) for n in (1, 2, 3)]

        async with shard.locking(2):
            with pytest.raises(Transient) as caught:
                await shard.apply(*changes)
            locked = await shard.find_locked(*changes)
        unlocked = await shard.find_locked(*changes)

        assert caught.value.locked
        assert locked == [False, True, False]
        assert unlocked == [False, False, False]
        assert await shard.row(1) == ({}, {})
        assert await shard.row(3) is None

    async def test_a_row_that_others_are_inserting_is_waited_for_and_not_found(
        self, shard: Shard
    ) -> None:
        change = change_of(0, update_of(1, tags={"n": 1}))

        async with shard.inserting(1):
            with pytest.raises(Transient) as caught:
                await shard.apply(change)
            locked = await shard.find_locked(change)
        applied = await shard.apply(change)

        assert caught.value.locked
        assert locked == [False]
        assert applied == Applied([0], [True])

    async def test_a_row_may_have_200_tags_and_no_more(self, shard: Shard) -> None:
        await shard.apply(change_of(0, update_of(1, tags={f"{n}": n for n in range(200)})))
        await shard.apply(change_of(1, update_of(1, tags={"0": None, "new": 1})))

        with pytest.raises(Rejected) as caught:
            await shard.apply(change_of(2, update_of(1, increment_tags={"one_more": 1})))

        assert caught.value.reason == "too_many_tags"
        row = await shard.row(1)
        assert row is not None
        assert len(row[0]) == 200

    async def test_a_full_row_is_refused_at_once_also_while_others_hold_it(
        self, shard: Shard
    ) -> None:
        """So a refusal says nothing about what the row holds a moment later."""
        await shard.apply(change_of(0, update_of(1, tags={f"{n}": n for n in range(200)})))
        change = change_of(1, update_of(1, tags={"one_more": 1}))

        async with shard.locking(1):
            with pytest.raises(Rejected) as caught:
                await shard.apply(change)
            locked = await shard.find_locked(change)

        assert caught.value.reason == "too_many_tags"
        assert locked == [True]

    async def test_a_write_is_refused_for_what_is_found_without_it(self, shard: Shard) -> None:
        full = {f"{n}": n for n in range(200)}
        for find, update in (
            (shard.find_unreadable, update_of(1, tags={"a": NUL})),
            (shard.find_unreadable, update_of(1, tags={NUL: 1})),
            (shard.find_unreadable, update_of(1, properties={"a": NUL})),
            (shard.find_overfull, update_of(1, tags={**full, "one_more": 1})),
            (shard.find_overfull, update_of(1, tags=full, increment_tags={"one_more": 1})),
        ):
            with pytest.raises(Rejected) as caught:
                await shard.apply(change_of(0, update))

            assert await find(change_of(0, update)) == reasons([caught.value])


_FIELDS = b"SFATAL\x00VFATAL\x00C57P01\x00Mterminating\x00\x00"
TERMINATED = b"E" + (4 + len(_FIELDS)).to_bytes(4, "big") + _FIELDS
"""What Postgres says to a connection that an administrator ends."""


class Relay:
    """Stands between a client and Postgres, and may speak in its name."""

    def __init__(self, dsn: SecretStr) -> None:
        self._address = urlsplit(dsn.get_secret_value())
        self._client: asyncio.StreamWriter | None = None
        self.dsn = dsn

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = writer
        server = await asyncio.open_connection(self._address.hostname, self._address.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pass_on(reader, server[1]))
            tasks.create_task(self._pass_on(server[0], writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    def listens_at(self, port: int) -> None:
        at = f"{self._address.netloc.rpartition(':')[0]}:{port}"
        self.dsn = SecretStr(urlunsplit(self._address._replace(netloc=at)))

    def say(self, message: bytes) -> None:
        assert self._client is not None
        self._client.write(message)


@asynccontextmanager
async def relaying(dsn: SecretStr) -> AsyncIterator[Relay]:
    relay = Relay(dsn)
    async with await asyncio.start_server(relay.serve, "127.0.0.1", 0) as server:
        relay.listens_at(server.sockets[0].getsockname()[1])
        yield relay


class TestFakeStore(StoreContract):
    @pytest.fixture
    def shard(self) -> Shard:
        return FakeShard()


class TestPooledShardStore(StoreContract):
    """As behind a pooler; a real one is in tests/pooler."""

    @pytest.fixture
    async def shard(self, database: SecretStr) -> AsyncIterator[Shard]:
        async with AsyncExitStack() as stack:
            yield RealShard(database, stack, pooled=True)


class TestShardStore(StoreContract):
    @pytest.fixture
    async def shard(self, database: SecretStr) -> AsyncIterator[Shard]:
        async with AsyncExitStack() as stack:
            yield RealShard(database, stack)

    async def test_first_inserts_of_one_row_at_once_lose_nothing(self, database: SecretStr) -> None:
        """Two owners of a partition for a moment: the loser repeats and finds its own in order."""
        changes = [change_of(n, update_of(n, increment={"session_count": 1})) for n in range(300)]
        async with AsyncExitStack() as stack:
            shards = [RealShard(database, stack) for _ in range(2)]

            async def write(shard: RealShard) -> None:
                with suppress(Transient):
                    await shard.apply(*changes)
                    return
                await write(shard)

            await asyncio.gather(*map(write, shards))

            rows = [await shards[0].row(n) for n in (0, 150, 299)]
        assert rows == [({}, {"session_count": Decimal(1)})] * 3

    async def test_what_one_statement_would_do_twice_is_refused_and_no_fault_of_the_shard(
        self, shard: Shard
    ) -> None:
        use = use_of(7, offset=0)

        with pytest.raises(Rejected) as caught:
            await shard.apply(change_of(0, update_of(1)), uses=[use, use])

        assert caught.value.sqlstate == "21000"

    async def test_a_refusal_is_put_in_a_sentence(self, shard: Shard) -> None:
        with pytest.raises(Rejected) as caught:
            await shard.apply(change_of(0, update_of(1, tags={f"{n}": n for n in range(201)})))

        assert str(caught.value) == "Its row would have more than 200 tags."

    async def test_a_refused_connection_is_transient(self) -> None:
        async with AsyncExitStack() as stack:
            shard = RealShard(SecretStr("postgresql://tidemark@127.0.0.1:1/tidemark"), stack)

            with pytest.raises(Transient) as caught:
                await shard.apply(change_of(0, update_of(1)))

        assert caught.value.any_input

    async def test_a_server_that_is_too_old_is_not_written(
        self, shard: Shard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.shard_servers.POSTGRES_MIN", 99)

        with pytest.raises(Transient, match="upgrade it to 99 or later") as caught:
            await shard.apply(change_of(0, update_of(1)))

        assert caught.value.any_input

    async def test_a_database_in_another_encoding_is_not_written(
        self, shard: Shard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.shard_servers.ENCODING", "UTF16")

        with pytest.raises(Transient, match="is in UTF8; create it with ENCODING 'UTF16'"):
            await shard.apply(change_of(0, update_of(1)))

    async def test_a_connection_that_was_ended_while_idle_is_replaced(
        self, database: SecretStr
    ) -> None:
        """Postgres says so before it closes; asyncpg then takes its own state for impossible."""
        change = change_of(0, update_of(1, increment={"session_count": 1}))
        async with AsyncExitStack() as stack:
            relay = await stack.enter_async_context(relaying(database))
            shard = RealShard(relay.dsn, stack)
            await shard.apply(change)

            relay.say(TERMINATED)
            for _ in range(100):  # of the loop's turns: the client reads it in one of the first
                await asyncio.sleep(0)
            with pytest.raises(Transient, match="InternalClientError"):
                await shard.apply(change)
            again = await shard.apply(change)

        assert again == Applied([0], [False])

    async def test_a_read_only_server_is_transient(self, shard: Shard, database: SecretStr) -> None:
        name = database.get_secret_value().rpartition("/")[2]
        connection = await asyncpg.connect(database.get_secret_value())
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await connection.close()

        with pytest.raises(Transient, match="25006") as caught:
            await shard.apply(change_of(0, update_of(1)))

        assert caught.value.any_input

    async def test_a_table_that_others_hold_is_not_taken_for_free_rows(
        self, shard: Shard, database: SecretStr
    ) -> None:
        """As while an index is being built: rows may be locked, and nothing may be written."""
        blocker = await asyncpg.connect(database.get_secret_value())
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE subscriptions IN SHARE MODE")

            with pytest.raises(Transient) as caught:
                await shard.find_locked(change_of(0, update_of(1)))

        await blocker.close()
        assert caught.value.locked

    async def test_a_statement_that_hangs_ends_with_its_time_out_and_frees_its_connection(
        self, database: SecretStr
    ) -> None:
        blocker = await asyncpg.connect(database.get_secret_value())
        async with open_store(
            database,
            connections_max=1,
            connect_timeout_s=10,
            statement_timeout_s=0.3,
            lock_timeout_s=10,
            topic_epoch=0,
            create_missing=True,
        ) as store:
            transaction = blocker.transaction()
            await transaction.start()
            await blocker.execute("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE")

            with pytest.raises(Transient) as caught:
                await store.apply([change_of(0, update_of(1))])
            await transaction.rollback()
            applied = await store.apply([change_of(0, update_of(1))])

        await blocker.close()
        assert not caught.value.any_input
        assert applied.positions == [0]

    async def test_the_hot_statement_finds_its_rows_by_the_primary_key(
        self, shard: Shard, database: SecretStr
    ) -> None:
        connection = await asyncpg.connect(database.get_secret_value())
        await connection.execute(
            "INSERT INTO subscriptions SELECT $1::uuid, gen_random_uuid(), '{}', '{}', now(), "
            "now(), 0, 0 FROM generate_series(1, 5000)",
            APP,
        )
        await connection.execute("ANALYZE subscriptions")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        kinds = "text,text,text,text,text,jsonb,jsonb,jsonb,jsonb,int,bool"
        await connection.execute(f"PREPARE hot({kinds}) AS {APPLY}")

        plan = await connection.fetch(
            "EXPLAIN EXECUTE hot('{}','{}','{}','{}','{}','[]','[]','[]','[]',0,true)"
        )

        await connection.close()
        text = "\n".join(line[0] for line in plan)
        assert "Index Scan using subscriptions_pkey" in text
        assert "Seq Scan" not in text
