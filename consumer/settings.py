"""Everything an operator can set of the consumer; each bound of the design is one of these."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from shared.logs import LogLevel
from shared.settings import FrozenModel, KafkaSettings, ListenSettings, ServiceSettings


class GroupSettings(FrozenModel):
    """Membership of the consumer group."""

    id: str = Field("tidemark-consumer", min_length=1, description="Consumer group.")
    instance_id: str | None = Field(
        None,
        min_length=1,
        description="Stable name of this consumer: with it, a restart causes no rebalance.",
    )
    session_timeout_ms: int = Field(
        30_000,
        ge=1_000,
        le=1_800_000,
        description="Without heartbeats for this long, its partitions go to others.",
    )
    heartbeat_interval_ms: int = Field(
        3_000, ge=100, le=60_000, description="Time between heartbeats."
    )
    commit_interval_ms: int = Field(
        500, ge=10, le=60_000, description="Time between commits of what is durable."
    )
    drain_timeout_ms: int = Field(
        5_000,
        ge=0,
        le=600_000,
        description="How long to finish what is in flight when partitions go or it stops.",
    )

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            message = "heartbeat_interval_ms must be at most a third of session_timeout_ms"
            raise ValueError(message)
        # Longer, and the group gives the partitions away while they are still being drained.
        if self.drain_timeout_ms * 2 > self.session_timeout_ms:
            message = "drain_timeout_ms must be at most half of session_timeout_ms"
            raise ValueError(message)
        return self


class FetchSettings(FrozenModel):
    """How much one request takes from Kafka."""

    bytes_max: int = Field(
        2**21, ge=2**16, le=2**28, description="Bytes of one fetch from one broker."
    )
    partition_bytes_max: int = Field(
        2**20, ge=2**14, le=2**26, description="Bytes of one fetch from one partition."
    )
    records_max: int = Field(
        2_000, ge=1, le=100_000, description="Records taken from the client at a time."
    )
    interval_min_ms: int = Field(
        30, ge=0, le=10_000, description="From one fetch to the next that brings little."
    )
    wait_max_ms: int = Field(
        100, ge=1, le=10_000, description="How long a broker may wait for records to arrive."
    )


class InFlightSettings(FrozenModel):
    """How much may be received and not yet durable; over it, fetching pauses."""

    records_max: int = Field(
        50_000,
        ge=1_000,
        le=10_000_000,
        description="Records of this process, dealt out to its shards in equal shares.",
    )
    bytes_max: int = Field(
        80 * 2**20,
        ge=2**20,
        le=2**36,
        description="Bytes of this process, as held in memory, dealt out likewise.",
    )
    partition_records_max: int = Field(
        10_000, ge=10, le=1_000_000, description="Records of one partition."
    )


class WriteSettings(FrozenModel):
    """How a shard is written."""

    missing: Literal["create", "ignore"] = Field(
        "create", description="What an update of a subscription without a row does."
    )
    flushes_in_flight_max: int = Field(
        2, ge=1, le=64, description="Statements under way at one shard: its connections."
    )
    rows_per_flush_max: int = Field(1_000, ge=1, le=10_000, description="Rows of one statement.")
    bytes_per_flush_max: int = Field(
        4 * 2**20, ge=2**10, le=2**26, description="Record bytes folded into one statement."
    )
    updates_per_fold_max: int = Field(
        5_000, ge=1, le=100_000, description="Updates of one subscription folded into one row."
    )
    flush_target_ms: int | None = Field(
        200,
        ge=1,
        le=60_000,
        description="Statement time to keep to: a shard that takes longer is given fewer "
        "statements and rows at once, down to one and rows_per_flush_min. Empty fixes both.",
    )
    rows_per_flush_min: int = Field(
        50, ge=1, le=10_000, description="Rows that a slow shard is still given."
    )
    pooler: Literal["none", "transaction"] = Field(
        "none",
        description="What is between here and the shards: transaction for PgBouncer or another "
        "that may give each transaction another connection.",
    )
    connect_timeout_ms: int = Field(
        3_000, ge=10, le=60_000, description="How long connecting to a shard may take."
    )
    statement_timeout_ms: int = Field(
        10_000, ge=10, le=600_000, description="How long one statement may take."
    )
    lock_timeout_ms: int = Field(
        500,
        ge=1,
        le=60_000,
        description="How long a statement may wait for a row that somebody else's transaction "
        "holds; then the others are written without it, and it is tried again.",
    )
    retry_base_ms: int = Field(
        100, ge=1, le=60_000, description="Wait before the first retry of a shard that failed."
    )
    retry_cap_ms: int = Field(
        5_000, ge=1, le=600_000, description="Longest wait before a retry; half of it is jitter."
    )

    @field_validator("flush_target_ms", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if self.rows_per_flush_min > self.rows_per_flush_max:
            message = "rows_per_flush_min must be at most rows_per_flush_max"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _timeouts_fit(self) -> Self:
        if self.lock_timeout_ms >= self.statement_timeout_ms:
            message = "lock_timeout_ms must be below statement_timeout_ms"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _retry_times_fit(self) -> Self:
        if self.retry_base_ms > self.retry_cap_ms:
            message = "retry_base_ms must be at most retry_cap_ms"
            raise ValueError(message)
        return self


class DeadLetterSettings(FrozenModel):
    """When giving up on records is no longer the customers' fault."""

    share_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Largest share of dead letters among a partition's recent records; over it, "
        "the partition is not taken any further until the consumer is restarted.",
    )
    window_records: int = Field(
        100, ge=10, le=1_000_000, description="The share of so many may be given up on in a row."
    )
    in_flight_max: int = Field(
        32,
        ge=1,
        le=1_000,
        description="Dead letters on their way to Kafka at once, of each shard, and of what "
        "is no update at all.",
    )


class HoldSettings(FrozenModel):
    """How updates are moved away that are held back, and how they come back."""

    batch_bytes_max: int = Field(
        2**18, ge=2**10, le=2**20, description="Bytes of one append to the holding topic."
    )
    release_records_max: int = Field(
        2_000,
        ge=1,
        le=100_000,
        description="Records of one release in memory that are not yet durable.",
    )
    release_bytes_max: int = Field(
        4 * 2**20,
        ge=2**10,
        le=2**28,
        description="Bytes of their values and headers; one record may exceed it.",
    )
    releases_max: int = Field(
        2, ge=1, le=720, description="Partitions of one shard in which holds are released at once."
    )


class TelemetrySettings(FrozenModel):
    """What is told about the work; where traces and metrics go is up to `OTEL_…` variables."""

    lag_interval_ms: int = Field(
        5_000, ge=100, le=600_000, description="Time between looks at how much waits in Kafka."
    )
    slow_update_ms: int = Field(
        60_000,
        ge=1,
        le=86_400_000,
        description="An update that waited longer gets a span, a few a second at most.",
    )
    spans_per_s_max: int = Field(
        100,
        ge=0,
        le=100_000,
        description="About how many updates a second that were sampled at ingest get a span here.",
    )
    peers: str = Field(
        "",
        pattern=r"^(https?://[^,\s]+(,https?://[^,\s]+)*)?$",
        description="Status addresses of the other consumers, comma-separated: what they say is "
        "added up on the page. A name with several addresses means all of them.",
    )


class ConsumerSettings(ServiceSettings):
    """All settings of the consumer."""

    shard_map_file: Path = Field(
        Path("shard_map.json"), description="JSON file that names the shards and their DSNs."
    )
    kafka: KafkaSettings = KafkaSettings()
    group: GroupSettings = GroupSettings()
    fetch: FetchSettings = FetchSettings()
    in_flight: InFlightSettings = InFlightSettings()
    write: WriteSettings = WriteSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    holds: HoldSettings = HoldSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    listen: ListenSettings = ListenSettings(port=8090)
    log_level: LogLevel = Field("info", description="Lowest level of what is logged.")
