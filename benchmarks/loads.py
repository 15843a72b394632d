"""What is sent: 400,000 rows, and updates of them in five mixes, all from one seed.

Everything here is a pure function of its arguments, so each process makes it anew for itself.
"""

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from shared.topology import PARTITIONS, partition_of
from verification.model import ModelRow

ROWS: Final = 400_000
APPS: Final = 7_200
"""Ten in each partition, so that all partitions and shards have the same number of rows."""

FULL: Final = 1_600_000
SHORT: Final = 100_000
"""For those who would need minutes for the full number; what counts is their rate."""

WARM_UP: Final = 200_000
"""Of *distinct*, for those who get faster by and by, before what counts."""

SHORTEST: Final = 20_000
"""For those who would need minutes even for that."""

INITIAL_TAGS: Final = '{"plan":"free","level":0,"city":"Lisbon","trial":true}'
BASE_TIMESTAMP_MS: Final = 1_700_000_000_000
_PLANS: Final = ("free", "pro", "team", "enterprise")
_SEED_OF_ROWS: Final = 0
_ZIPF_EXPONENT: Final = 1.1
_REFUSED: Final = '{"note":"\\u0000"}'
"""A valid update that Postgres refuses: it keeps no NUL in jsonb."""


@dataclass(frozen=True, slots=True)
class Row:
    """A subscription, and the partition of its app."""

    app_id: str
    subscription_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class Update:
    """One update, as it lies in Kafka; `tags` is JSON."""

    row: int
    tags: str
    offset: int
    refused: bool


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """What a row must hold in the end, and the offset of the last update applied to it."""

    row: int
    tags: str
    offset: int


def make_rows(count: int = ROWS) -> list[Row]:
    """Return the subscriptions; their order is random, as that of rows that came over time."""
    pick = random.Random(_SEED_OF_ROWS)
    apps = []
    for number in range(APPS):
        # Stratified: the first 16 bits decide on the partition.
        partition = number * PARTITIONS // APPS
        first, after = _prefixes(partition)
        apps.append(f"{pick.randrange(first, after):04x}{_identifier(pick)[4:]}")
    rows = [
        Row(app, _identifier(pick), partition_of(app))
        for app in (apps[_app_of(number, count)] for number in range(count))
    ]
    pick.shuffle(rows)
    return rows


def _app_of(number: int, rows: int) -> int:
    """Return the app of a row: apps in turn, or spread over all shards where there are fewer."""
    return number % APPS if rows >= APPS else number * APPS // rows


def _prefixes(partition: int) -> tuple[int, int]:
    """Return the first 16 bits of the first app of a partition, and of the next partition's."""
    return -(-partition * 65_536 // PARTITIONS), -(-(partition + 1) * 65_536 // PARTITIONS)


def _identifier(pick: random.Random) -> str:
    return str(uuid.UUID(int=pick.getrandbits(128), version=4))


Chooser = Callable[[random.Random, int, int], Sequence[int]]
"""Chooses, from a seeded source, a number of row indices out of so many rows."""


def _uniform(pick: random.Random, rows: int, count: int) -> Sequence[int]:
    return pick.choices(range(rows), k=count)


def _zipf(pick: random.Random, rows: int, count: int) -> Sequence[int]:
    # Rows are in random order already, so the rank may be the index.
    weights = list(accumulate(1 / rank**_ZIPF_EXPONENT for rank in range(1, rows + 1)))
    return pick.choices(range(rows), cum_weights=weights, k=count)


def _half_hot(pick: random.Random, rows: int, count: int) -> Sequence[int]:
    chosen = pick.choices(range(rows), k=count)
    chosen[1::2] = [0] * len(chosen[1::2])
    return chosen


def _once(pick: random.Random, rows: int, count: int) -> Sequence[int]:
    return pick.sample(range(rows), k=min(rows, count))


@dataclass(frozen=True, slots=True)
class Load:
    """A mix of updates."""

    name: str
    meaning: str
    choose: Chooser
    one_refused_of: int | None = None
    full: int = FULL
    """How many there are of it."""
    beside: str | None = None
    """The load that Tidemark's rate on this one is compared with."""

    def updates(self, rows: Sequence[Row], seed: int, count: int) -> Iterator[Update]:
        """Yield updates in the order of their acceptance."""
        # A prefix of a longer run is the same as a shorter run: all is chosen beforehand.
        chosen = self.choose(random.Random(f"{self.name}-{seed}"), len(rows), self.full)
        ends = [0] * PARTITIONS
        for number in range(count):
            row = chosen[number]
            partition = rows[row].partition
            offset = ends[partition]
            ends[partition] = offset + 1
            refused = self.one_refused_of is not None and number % self.one_refused_of == 1
            yield Update(row, _REFUSED if refused else _tags(number), offset, refused)


LOADS: Final = {
    load.name: load
    for load in (
        Load("distinct", "uniform over all rows, so each comes up four times on average", _uniform),
        Load("once", "each row once: nothing can be folded", _once, full=ROWS),
        Load("zipf", "row of rank n as often as 1/n^1.1 says", _zipf, beside="distinct"),
        Load("half-hot", "every second update goes to one row", _half_hot, beside="distinct"),
        Load(
            "failing",
            "uniform; Postgres refuses one of a hundred, for a NUL (201 tags cost more: README.md)",
            _uniform,
            100,
            beside="distinct",
        ),
    )
}


def _tags(number: int) -> str:
    """Return tags of which the final value of each tells which update came last."""
    trial = ("true", "null")[number >> 3 & 1]
    plan = _PLANS[number >> 4 & 3]
    return f'{{"level":{number},"seen_{number & 7}":{number},"plan":"{plan}","trial":{trial}}}'


def record_value(row: Row, tags: str) -> bytes:
    """Return the record's value, as `ingest_api` would write it."""
    return (
        f'{{"schema":1,"app_id":"{row.app_id}","subscription_id":"{row.subscription_id}",'
        f'"tags":{tags}}}'
    ).encode()


def expected_rows(updates: Iterator[Update]) -> Iterator[ExpectedRow]:
    """Apply the updates one by one to a model that knows nothing of the services."""
    initial = json.loads(INITIAL_TAGS)
    rows: dict[int, ModelRow] = {}
    offsets: dict[int, int] = {}
    for update in updates:
        if update.refused:
            continue
        row = rows.get(update.row)
        if row is None:
            row = rows[update.row] = ModelRow()
            row.apply({"tags": initial})
        row.apply({"tags": json.loads(update.tags)})
        offsets[update.row] = update.offset
    for index, row in rows.items():
        yield ExpectedRow(index, json.dumps(row.tags, default=int), offsets[index])
