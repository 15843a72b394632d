"""Which port belongs to what, and whether it can be had."""

import random
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from dotenv import dotenv_values

from shared.errors import Misconfigured

SHARDS: Final = 4
HOST: Final = "127.0.0.1"

_DEFAULTS: Final = {
    "CONSUMERS": 1,
    "INGEST_PORT": 8080,
    "KAFKA_PORT": 9092,
    "POSTGRES_PORT": 5440,
    "STATUS_PORT": 8090,
}
_LAST_PORT: Final = 65_535
# Below the range that Linux and macOS take outgoing connections from: a port whose server is down
# for a moment is then not taken by a client.
_FREE_RANGE: Final = range(15_000, 32_000)


@dataclass(frozen=True, slots=True)
class Claim:
    """One port, what needs it, and the variable that moves it."""

    port: int
    owner: str
    variable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a stack consists of, and where each part listens."""

    ingest: int
    broker: int
    controller: int
    shards: tuple[int, ...]
    status: tuple[int, ...]

    @property
    def consumers(self) -> int:
        """How many consumers run."""
        return len(self.status)

    @property
    def bootstrap_servers(self) -> str:
        """The broker's address."""
        return f"{HOST}:{self.broker}"

    @classmethod
    def from_variables(cls, variables: Mapping[str, str | None]) -> Self:
        """Read the plan from make variables, the environment or `.env`; empty means unset.

        Raises:
            Misconfigured: a variable is not a number that can be, or two ports are the same.
        """
        value = {name: _number(name, variables.get(name)) for name in _DEFAULTS}
        plan = cls(
            ingest=value["INGEST_PORT"],
            broker=value["KAFKA_PORT"],
            controller=value["KAFKA_PORT"] + 1,
            shards=tuple(value["POSTGRES_PORT"] + n for n in range(SHARDS)),
            status=tuple(value["STATUS_PORT"] + n for n in range(value["CONSUMERS"])),
        )
        plan._check()
        return plan

    @classmethod
    def on_free_ports(cls, consumers: int = 0, shards: int = SHARDS) -> Self:
        """Plan a stack on ports that are free now."""
        candidates = (p for p in random.sample(_FREE_RANGE, len(_FREE_RANGE)) if is_free(p))
        return cls(
            ingest=next(candidates),
            broker=next(candidates),
            controller=next(candidates),
            shards=tuple(next(candidates) for _ in range(shards)),
            status=tuple(next(candidates) for _ in range(consumers)),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `as_json` returned."""
        return cls(
            ingest=value["ingest"],
            broker=value["broker"],
            controller=value["controller"],
            shards=tuple(value["shards"]),
            status=tuple(value["status"]),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return asdict(self)

    def claims(self) -> Iterator[Claim]:
        """Yield every port of the stack."""
        yield Claim(self.ingest, "ingest-api", "INGEST_PORT")
        yield Claim(self.broker, "broker", "KAFKA_PORT")
        yield Claim(self.controller, "broker", "KAFKA_PORT")
        for number, port in enumerate(self.shards):
            yield Claim(port, f"shard-{number}", "POSTGRES_PORT")
        for number, port in enumerate(self.status, start=1):
            yield Claim(port, f"consumer-{number}", "STATUS_PORT")

    def _check(self) -> None:
        owners: dict[int, Claim] = {}
        for claim in self.claims():
            if claim.port > _LAST_PORT:
                raise Misconfigured(
                    f"{claim.owner} would need port {claim.port}, and the last one is "
                    f"{_LAST_PORT}; choose a lower {claim.variable}."
                )
            other = owners.setdefault(claim.port, claim)
            if other is not claim:
                raise Misconfigured(
                    f"{other.owner} and {claim.owner} would both need port {claim.port}; "
                    f"choose another {claim.variable}."
                )


def read_variables(environment: Mapping[str, str], env_file: Path) -> dict[str, str | None]:
    """Return make variables and the environment, and `.env` for what they leave open or empty."""
    named = {name: value for name, value in environment.items() if value}
    return {**dotenv_values(env_file), **named}


def is_free(port: int) -> bool:
    """Say whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # As the servers do: a connection that is timing out does not hold a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(claim: Claim) -> None:
    """Make sure that a port can be had.

    Raises:
        Misconfigured: somebody else listens on it.
    """
    if not is_free(claim.port):
        raise Misconfigured(
            f"Port {claim.port} is taken by another program, and {claim.owner} needs it; end that "
            f"program, or choose another port with {claim.variable}=…."
        )


def _number(name: str, text: str | None) -> int:
    if not text or not text.strip():
        return _DEFAULTS[name]
    limit = 720 if name == "CONSUMERS" else _LAST_PORT
    if not text.strip().isdecimal() or not 1 <= int(text) <= limit:
        raise Misconfigured(f"{name} is {text!r}; it must be a number from 1 to {limit}.")
    return int(text)
