"""Everything an operator can set of the ingest API."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator

from shared.bounded_http import HttpSettings
from shared.logs import LogLevel
from shared.settings import FrozenModel, KafkaSettings, ListenSettings, ServiceSettings

SHARES: Final = 4
"""One token's bodies may hold one of so many shares of `held_bytes_max`."""


class BodySettings(FrozenModel):
    """How much of a request is read."""

    bytes_max: int = Field(
        2**20, ge=2**10, le=2**24, description="Bytes of one body; a longer one is answered 413."
    )
    held_bytes_max: int = Field(
        48 * 2**20,
        ge=2**20,
        le=2**34,
        description="Bytes of all bodies that have arrived in part, and of one token's a quarter "
        "of that; one more is answered 503.",
    )

    members_max: int = Field(
        1_000,
        ge=100,
        le=1_000_000,
        description="Names and values in the body of one update; more are answered 413.",
    )
    batch_members_max: int = Field(
        20_000, ge=1_000, le=10_000_000, description="The same of a batch."
    )

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        if self.bytes_max > self.held_bytes_max // SHARES:
            message = f"held_bytes_max must be at least {SHARES} times bytes_max"
            raise ValueError(message)
        return self


class LimitSettings(FrozenModel):
    """How fast updates may come: in one process, unless a store counts for all of them."""

    app_updates_per_s: float = Field(
        1_000, ge=0, le=1e6, description="Updates of one app a second; 0 sets no limit."
    )
    subscription_updates_per_s: float = Field(
        1, ge=0, le=1e6, description="Updates of one subscription a second; 0 sets no limit."
    )
    burst_s: float = Field(
        5, gt=0, le=3_600, description="Seconds' worth of updates that may come at once."
    )
    store_url: SecretStr | None = Field(
        None,
        description="A server that speaks Redis's protocol and counts for all processes, such as "
        "rediss://user:password@host:6379/0. Without one each process counts for itself.",
    )
    store_timeout_ms: int = Field(
        100,
        ge=1,
        le=10_000,
        description="How long it may take to answer; after that each process counts for itself "
        "for a second, and nobody is refused on its account.",
    )


NO_LIMITS: Final = LimitSettings(app_updates_per_s=0, subscription_updates_per_s=0)


class AuthSettings(FrozenModel):
    """Whose tokens are good."""

    required: bool = Field(
        True,
        description="Whether a request needs a token; false only behind something that checks "
        "who may do what.",
    )
    public_keys_file: Path | None = Field(
        None,
        description="The public keys of one's tokens, a JWK set as `tidemark keys new` writes it; "
        "a changed file is read again.",
    )
    revoked_tokens_file: Path | None = Field(
        None,
        description="IDs of tokens that are good no longer, one a line; a changed file is read "
        "again.",
    )
    reload_interval_ms: int = Field(
        1_000, ge=10, le=3_600_000, description="Time between looks at the two files."
    )


class ProduceSettings(FrozenModel):
    """How updates are handed to Kafka, and how many may wait for it."""

    updates_in_flight_max: int = Field(
        20_000,
        ge=1_000,
        le=10_000_000,
        description="Updates not acknowledged yet; one more is answered 503.",
    )
    # All that waits for one broker may become one request, and Kafka refuses one over 100 MiB.
    bytes_in_flight_max: int = Field(
        32 * 2**20, ge=4 * 2**20, le=64 * 2**20, description="Their bytes, likewise."
    )
    partition_updates_in_flight_max: int = Field(
        5_000, ge=1_000, le=10_000_000, description="Updates of one partition, likewise."
    )
    partition_bytes_in_flight_max: int = Field(
        8 * 2**20, ge=2 * 2**20, le=64 * 2**20, description="Bytes of one partition, likewise."
    )
    record_batch_bytes_max: int = Field(
        1_000_000,
        ge=300_000,
        le=2**24,
        description="Bytes of one record batch; keep it below the topic's max.message.bytes.",
    )
    enqueue_timeout_ms: int = Field(
        1_000,
        ge=10,
        le=60_000,
        description="How long to wait for a connection and a place in its queue; then 503.",
    )
    ack_timeout_ms: int = Field(
        5_000,
        ge=10,
        le=600_000,
        description="How long to wait for acknowledgements after that; then 504, outcome unknown.",
    )
    stalled_after_ms: int = Field(
        1_500,
        ge=10,
        le=600_000,
        description="A partition or broker that acknowledges nothing for this long gets no more: "
        "503.",
    )

    @model_validator(mode="after")
    def _partition_fits(self) -> Self:
        if (
            self.partition_updates_in_flight_max > self.updates_in_flight_max
            or self.partition_bytes_in_flight_max > self.bytes_in_flight_max
        ):
            message = "bounds of one partition must be at most those of the process"
            raise ValueError(message)
        return self


class ReceiptSettings(FrozenModel):
    """How receipts are answered."""

    consumer_group: str = Field(
        "tidemark-consumer",
        min_length=1,
        description="The group of the consumers, whose commits say what is applied.",
    )
    known_for_h: int = Field(
        24, ge=1, le=720, description="How far back receipts are known at a start, in hours."
    )
    entries_max: int = Field(
        100_000,
        ge=1_000,
        le=10_000_000,
        description="Dead letters and held updates that are remembered, of each the newest; about "
        "500 bytes each.",
    )
    asks_max: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Requests that wait for an answer about a receipt; one more is answered 503. "
        "Of more than half of it, those that have waited longest are answered as it stands.",
    )
    wait_max_s: float = Field(
        30,
        ge=0,
        le=30,
        description="How long an answer is held at most, however long was asked for.",
    )
    look_interval_ms: int = Field(
        100, ge=10, le=60_000, description="Time between looks at Kafka while somebody waits."
    )
    look_timeout_ms: int = Field(
        1_500, ge=100, le=60_000, description="How long a look may take; then 503."
    )


class IdempotencySettings(FrozenModel):
    """How idempotency keys are remembered that were used with another body."""

    keys_max: int = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="Idempotency keys that are remembered, the newest, for an answer at once; "
        "about 250 bytes each. What is not remembered is found where it is applied.",
    )


class TelemetrySettings(FrozenModel):
    """What is told about the work; where traces and metrics go is up to `OTEL_…` variables."""

    trace_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of requests that get spans, here and where their updates are applied.",
    )


class IngestSettings(ServiceSettings):
    """All settings of the ingest API."""

    mode: Literal["production", "local"] = Field(
        "production", description="In production, keys that were made for one machine are refused."
    )
    kafka: KafkaSettings = KafkaSettings()
    listen: ListenSettings = ListenSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    body: BodySettings = BodySettings()
    produce: ProduceSettings = ProduceSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    shutdown_delay_s: float = Field(
        0,
        ge=0,
        le=300,
        description="On SIGTERM: how long to serve while unready, until load balancers have seen "
        "it.",
    )
    flush_timeout_ms: int = Field(
        5_000,
        ge=0,
        le=600_000,
        description="At the end: how long to wait for updates that Kafka has not acknowledged.",
    )
    log_level: LogLevel = Field("info", description="Lowest level of what is logged.")

    @model_validator(mode="after")
    def _accepted_requests_can_end(self) -> Self:
        slowest_ms = self.produce.enqueue_timeout_ms + self.produce.ack_timeout_ms
        if self.http.drain_timeout_ms < slowest_ms:
            message = "http drain_timeout_ms must cover enqueue_timeout_ms and ack_timeout_ms"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _largest_batch_fits(self) -> Self:
        # Stored, an update also names its app: a batch grows a little on its way.
        if self.body.bytes_max * 2 > self.produce.partition_bytes_in_flight_max:
            message = "partition_bytes_in_flight_max must be at least twice body bytes_max"
            raise ValueError(message)
        return self
