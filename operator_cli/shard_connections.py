"""Connections to shards for commands: errors as sentences, right through a pooler as well."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg
from pydantic import SecretStr

from shared.errors import Misconfigured, Transient

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_TIMEOUT_S: Final = 10
_WRONG_LOGIN: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
)


@asynccontextmanager
async def connected(shard: str, dsn: SecretStr, *, could_not: str) -> AsyncIterator[Connection]:
    """Connect to a shard; `could_not` says what failed if it fails, as in "be asked".

    A statement with arguments belongs into a transaction: a pooler may give its two halves to
    two connections of the server otherwise. Nothing is prepared for longer, for the same reason.

    Raises:
        Misconfigured: the shard refuses the login, or the role may not do it.
        Transient: it cannot be reached, or refuses a statement.
    """
    try:
        connection = await asyncpg.connect(
            dsn.get_secret_value(), timeout=_TIMEOUT_S, statement_cache_size=0
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=_TIMEOUT_S)
    except _WRONG_LOGIN as error:
        raise Misconfigured(f"{shard} refuses the login of its DSN: {error}.") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Misconfigured(
            f"{shard} could not {could_not}: {error}; let the role of its DSN own the database."
        ) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise Transient(f"{shard} could not {could_not}: {reason}.") from error


def raise_failures(outcomes: Iterable[object]) -> None:
    """Raise one error that tells of each shard that failed.

    Raises:
        Misconfigured: a human must act at one of them.
        Transient: all of them may do later.
    """
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    for each in failures:
        if not isinstance(each, Misconfigured | Transient):
            raise each
    if failures:
        kind = Misconfigured if any(isinstance(f, Misconfigured) for f in failures) else Transient
        raise kind(" ".join(map(str, failures))) from failures[0]


@asynccontextmanager
async def reading(shard: str, dsn: SecretStr) -> AsyncIterator[Connection]:
    """Connect to a shard, and read within one transaction.

    Raises:
        Misconfigured, Transient: see `connected`.
    """
    async with (
        connected(shard, dsn, could_not="be asked") as connection,
        connection.transaction(readonly=True),
    ):
        yield connection
