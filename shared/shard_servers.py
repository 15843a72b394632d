"""What a shard's server must be."""

from typing import Any, Final

POSTGRES_MIN: Final = 16
"""The first major version that can say of JSON whether it is any, without an error."""

ENCODING: Final = "UTF8"
"""Of a shard's database; another could not hold all that customers send."""


def unfit(connection: Any, *, it: str, its_database: str) -> str | None:
    """Say why the server behind an asyncpg connection can be no shard; None where it can.

    The sentence begins with what the server, or its database, is called.
    """
    major = connection.get_server_version().major
    if major < POSTGRES_MIN:
        return f"{it} is Postgres {major}; upgrade it to {POSTGRES_MIN} or later."
    encoding = connection.get_settings().server_encoding
    if encoding != ENCODING:
        return f"{its_database} is in {encoding}; create it with ENCODING '{ENCODING}'."
    return None
