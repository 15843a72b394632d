"""The release of one hold, over a holding topic in memory."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from consumer.releasing import Release
from consumer.settings import ConsumerSettings, HoldSettings
from shared.holds import HeldAt, HoldKey, HoldState, held_headers
from shared.updates import encode
from tests.records import APP, StubRecord, record_of, subscription, update_of
from tests.unit.test_holds import offsets, view_of
from tests.unit.test_partition_work import Setup, complete

VIEW = view_of(HoldKey(APP, subscription(1)), HoldState.RELEASING)
PORTION = 5


class HeldTopic:
    """One partition of the holding topic."""

    def __init__(self) -> None:
        self.records: list[StubRecord] = []

    def append(self, held: Iterable[int], run: str) -> None:
        for offset in held:
            headers = tuple(held_headers(HeldAt(offset, run)))
            value = encode(update_of(1, increment={"session_count": 1}))
            self.records.append(StubRecord(len(self.records), value, headers=headers))

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        return {each: len(self.records) for each in partitions}

    async def read(
        self, starts: Mapping[int, int], ends: Mapping[int, int], *, records_max: int = 2_000
    ) -> AsyncGenerator[Sequence[StubRecord], None]:
        ((partition, start),) = starts.items()
        for at in range(start, ends[partition], records_max):
            yield self.records[at : min(at + records_max, ends[partition])]


class Releasing:
    """A partition of which one hold is to be released, and who releases it."""

    def __init__(self, committed: int = 0) -> None:
        self.setup = Setup()
        self.work = self.setup.work()
        self.work.diversion.follow([VIEW])
        self.topic = HeldTopic()
        self._at = committed

    async def committed(self, partition: int) -> int:
        return self._at

    async def appended(self, _work: object) -> None:
        """Nothing is on its way."""

    def begin(self) -> Release:
        settings = ConsumerSettings(holds=HoldSettings(release_records_max=PORTION))
        return Release(
            self.work,
            VIEW,
            reader=self.topic,
            holding=self,
            committed=self,
            settings=settings,
        )

    async def write(self) -> None:
        """Write whatever is in queues, for ever."""
        while True:
            for queue in self.setup.ready.queues:
                assert len(queue.updates) <= PORTION
                complete(self.work, queue, len(queue.updates))
            await asyncio.sleep(0)


async def test_what_waits_here_is_not_fed_although_a_former_owner_holds_it_back_only_now() -> None:
    """Both would be in one fold, where no position can tell them apart."""
    releasing = Releasing(committed=3)

    async def receive_and_have_it_held_back(_work: object) -> None:
        releasing.work.receive([record_of(n, update_of(1)) for n in range(3, 6)])
        releasing.topic.append(range(3, 6), "of the former owner")

    releasing.appended = receive_and_have_it_held_back  # type: ignore[method-assign]
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        release = tasks.create_task(releasing.begin().run())
        while releasing.work.diversion.is_active:
            await asyncio.sleep(0)
        assert offsets(releasing.setup) == [[3, 4, 5]]

    assert release.result() == 0


async def test_a_release_stays_within_its_portion_whatever_is_held_back_meanwhile() -> None:
    releasing = Releasing()
    releasing.work.receive([record_of(n, update_of(1)) for n in range(3)])
    releasing.work.complete_records(releasing.setup.held)
    releasing.topic.append(range(3), "ours")

    release = asyncio.create_task(releasing.begin().run())
    while not releasing.setup.ready.queues:
        await asyncio.sleep(0)
    releasing.setup.held.clear()
    releasing.work.receive([record_of(n, update_of(1)) for n in range(3, 60)])
    releasing.work.complete_records(releasing.setup.held)
    releasing.topic.append(range(3, 60), "ours")
    writing = asyncio.create_task(releasing.write())
    async with asyncio.timeout(10):
        await asyncio.wait({release, writing}, return_when=asyncio.FIRST_COMPLETED)
    writing.cancel()

    assert release.done()
    assert release.result() == 60
    assert not releasing.work.diversion.is_active
