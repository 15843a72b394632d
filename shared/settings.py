"""Setting models that more than one program uses; each reads the environment only when built."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PostgresDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import Misconfigured
from shared.topology import Shard, ShardMap


class FrozenModel(BaseModel):
    """A value that is read once and never changed; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceSettings(BaseSettings):
    """Base of each service's one settings object, from `TIDEMARK_…` variables."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMARK_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )


class KafkaSettings(FrozenModel):
    """How to reach Kafka, and the topic of updates."""

    bootstrap_servers: str = Field(
        "127.0.0.1:9092", min_length=1, description="Comma-separated host:port of brokers."
    )
    topic: str = Field(
        "subscription-updates", pattern=r"^[a-zA-Z0-9._-]{1,200}$", description="Topic of updates."
    )
    topic_epoch: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Raise it by one whenever the topic is made anew: offsets start over then.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="As in Kafka's own client settings."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="Used where the protocol is SASL_…."
    )
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password.")
    ssl_ca_file: Path | None = Field(
        None, description="CA bundle of the brokers; the system's when unset."
    )
    ssl_cert_file: Path | None = Field(None, description="Client certificate, for mutual TLS.")
    ssl_key_file: Path | None = Field(None, description="Key of the client certificate.")
    request_timeout_ms: int = Field(
        10_000, ge=100, le=300_000, description="How long one request to a broker may take."
    )

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_username and self.sasl_password
        ):
            message = "sasl_username and sasl_password are needed where security_protocol is SASL"
            raise ValueError(message)
        return self

    @property
    def dead_letter_topic(self) -> str:
        """Where records go that can never succeed."""
        return f"{self.topic}.dead-letter"

    @property
    def holds_topic(self) -> str:
        """Where operators say what is held back, and consumers what they have released."""
        return f"{self.topic}.holds"

    @property
    def held_topic(self) -> str:
        """Where updates wait that are held back."""
        return f"{self.topic}.held"


class ListenSettings(FrozenModel):
    """Where a service listens."""

    host: str = Field("127.0.0.1", description="Address to bind; loopback unless you say so.")
    port: int = Field(8080, ge=0, le=65_535, description="TCP port; 0 takes a free one.")


_postgres_dsn = TypeAdapter(PostgresDsn)


class _ShardEntry(FrozenModel):
    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    partitions: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    dsn: SecretStr | None = None
    dsn_file: Path | None = None
    connections_max: int | None = Field(None, ge=1)

    @field_validator("dsn")
    @classmethod
    def _is_postgres_dsn(cls, dsn: SecretStr) -> SecretStr:
        try:
            _postgres_dsn.validate_python(dsn.get_secret_value())
        except ValidationError:
            message = "it must read postgresql://user:password@host:port/database"
            raise ValueError(message) from None  # theirs quotes the password
        return dsn

    @model_validator(mode="after")
    def _has_one_dsn(self) -> Self:
        if (self.dsn is None) == (self.dsn_file is None):
            message = "give it either a dsn or a dsn_file"
            raise ValueError(message)
        return self

    def read_dsn(self) -> SecretStr:
        """Return the DSN, from its file where it has one."""
        if self.dsn is not None:
            return self.dsn
        assert self.dsn_file is not None
        try:
            return self._is_postgres_dsn(SecretStr(self.dsn_file.read_text("utf-8").strip()))
        except OSError as error:
            raise Misconfigured(
                f"The DSN of {self.name} cannot be read from {self.dsn_file} ({error.strerror}); "
                "name a readable file."
            ) from error
        except ValueError as error:
            raise Misconfigured(f"The DSN in {self.dsn_file} is wrong: {error}.") from None


class _ShardMapFile(FrozenModel):
    version: Literal[1]
    shards: list[_ShardEntry] = Field(min_length=1)

    @property
    def map(self) -> ShardMap:
        """Which shard owns which partitions."""
        return ShardMap([Shard(entry.name, *entry.partitions) for entry in self.shards])


@dataclass(frozen=True, slots=True)
class ShardDirectory:
    """The shard map, and by name each shard's DSN and its budget of connections.

    A shard without a budget is not in `budgets`.
    """

    map: ShardMap
    dsns: Mapping[str, SecretStr]
    budgets: Mapping[str, int] = field(default_factory=dict)


def read_shard_map(path: Path) -> ShardDirectory:
    """Read the shard map.

    `{"version": 1, "shards": [{"name": "…", "partitions": [0, 719], "dsn": "postgresql://…"}]}`
    A shard may have a `dsn_file` instead, and say with `connections_max` what its budget is.

    Raises:
        Misconfigured: a file is missing or malformed, or a partition is not owned exactly once.
    """
    content = _read_file(path)
    return ShardDirectory(
        content.map,
        {entry.name: entry.read_dsn() for entry in content.shards},
        {entry.name: entry.connections_max for entry in content.shards if entry.connections_max},
    )


def read_shards(path: Path) -> ShardMap:
    """Read of the shard map who owns which partitions, for those who talk to Kafka alone.

    No DSN is read, so none need be there.

    Raises:
        Misconfigured: the file is missing or malformed, or a partition is not owned exactly once.
    """
    return _read_file(path).map


def _read_file(path: Path) -> _ShardMapFile:
    try:
        return _ShardMapFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise Misconfigured(
            f"The shard map {path} cannot be read ({error.strerror}); name a readable "
            "one with TIDEMARK_SHARD_MAP_FILE."
        ) from error
    except ValidationError as error:
        raise Misconfigured(f"The shard map {path} is wrong: {_sentence(error)}.") from None
    except ValueError as error:
        raise Misconfigured(f"The shard map {path} is not JSON: {error}.") from None


S = TypeVar("S", bound=ServiceSettings)


def load(settings: type[S]) -> S:
    """Build a service's settings from the environment.

    Raises:
        Misconfigured: a variable is missing or wrong; the message names it and never its value.
    """
    try:
        return settings()
    except ValidationError as error:
        raise Misconfigured(f"Settings are wrong: {_sentence(error, environment=True)}.") from None


def _sentence(error: ValidationError, *, environment: bool = False) -> str:
    parts = []
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        names = [str(part) for part in detail["loc"]]
        place = "TIDEMARK_" + "__".join(names).upper() if environment else ".".join(names)
        parts.append(f"{place}: {detail['msg']}" if names else detail["msg"])
    return "; ".join(parts)
