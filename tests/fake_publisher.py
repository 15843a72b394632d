"""A publisher in memory; `tests/contract/test_publisher.py` holds it to what Kafka's does."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ingest_api.publisher import PartlyPublished
from ingest_api.receipts import receipt
from shared.errors import Transient
from shared.topology import partition_of


@dataclass
class FakePublisher:
    """Keeps what is published, until it is told to fail.

    With `failure`, each call stores `stored_before_failure` updates first; the next
    `unknown_after_failure` may be stored, for all its caller knows.
    """

    connected_once: bool = True
    failure: Exception | None = None
    stored_before_failure: int = 0
    unknown_after_failure: int = 0
    partitions: dict[int, list[tuple[str, bytes]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    async def publish(self, app_id: str, values: Sequence[bytes]) -> list[str]:
        if not self.connected_once:
            raise Transient("Kafka cannot be reached.")
        stored = values if self.failure is None else values[: self.stored_before_failure]
        partition = partition_of(app_id)
        log = self.partitions[partition]
        receipts = [receipt(0, partition, len(log) + index) for index in range(len(stored))]
        log.extend((app_id, value) for value in stored)
        match self.failure:
            case None:
                return receipts
            case Transient() as cause if len(values) > 1 and (
                receipts or self.unknown_after_failure
            ):
                raise PartlyPublished(cause, receipts=receipts, unknown=self.unknown_after_failure)
            case failure:
                raise failure

    @property
    def values(self) -> list[bytes]:
        """All that is stored, of all partitions."""
        return [value for log in self.partitions.values() for _, value in log]
