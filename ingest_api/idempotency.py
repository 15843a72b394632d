"""Idempotency keys: read, turned into what a record carries, and remembered for a plain answer.

That an update has its effect once is seen to where it is applied. What is remembered here only
tells at once of a key that this process has seen with another body.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

import msgspec
from starlette.requests import Request

from ingest_api.problems import INVALID, KEY_REUSED, ProblemError
from ingest_api.publisher import PartlyPublished
from ingest_api.settings import IdempotencySettings
from shared.errors import Transient
from shared.updates import KEY_KNOWN_FOR_MS, Once, Update, encode

FIELD: Final = "Idempotency-Key"
KEY_LENGTH_MAX: Final = 255
KEY_PATTERN: Final = rf"^[!-~]{{1,{KEY_LENGTH_MAX}}}$"
"""Visible ASCII characters."""

_is_key = re.compile(KEY_PATTERN.encode()).fullmatch
_FIELD: Final = FIELD.lower().encode()
_DIGEST_BYTES: Final = 16


def key_of(request: Request) -> bytes | None:
    """Return the request's idempotency key; None where it has none, as most.

    Raises:
        ProblemError: it is not one.
    """
    for name, value in request.scope["headers"]:
        if name == _FIELD:
            if _is_key(value) is None:
                detail = f"A key is 1 to {KEY_LENGTH_MAX} visible ASCII characters, without spaces."
                raise ProblemError(INVALID, detail, [{"parameter": FIELD, "detail": detail}])
            return bytes(value)
    return None


def once(key: bytes, update: Update, place: int | None = None) -> Update:
    """Return `update` as one that has its effect once under `key`; `place` is that in a batch."""
    place_text = b"" if place is None else str(place).encode()
    mark = Once(key=_digest(key, place_text).hex(), body=_digest(encode(update)).hex())
    return msgspec.structs.replace(update, once=mark)


class UsedKeys:
    """Remembers what keys were used for, in this process: the newest, for a day at most."""

    def __init__(
        self, settings: IdempotencySettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys_max = settings.keys_max
        self._clock = clock
        self._used: dict[bytes, tuple[bytes, float]] = {}

    @contextmanager
    def using(self, key: bytes, scope: str, values: list[bytes]) -> Iterator[None]:
        """Note that `key` is used in `scope` for `values`, unless the block stores none of them.

        Raises:
            ProblemError: it was used for something else.
        """
        name, content = _digest(scope.encode(), key), _digest(*values)
        used_for, until = self._used.get(name, (content, 0.0))
        now = self._clock()
        if used_for != content and now < until:
            raise ProblemError(KEY_REUSED, "The key was used for another request.")
        try:
            yield
        except Transient as error:
            if error.outcome_unknown or isinstance(error, PartlyPublished):
                self._note(name, content, now)
            raise
        self._note(name, content, now)

    def _note(self, name: bytes, content: bytes, now: float) -> None:
        if now >= self._used.get(name, (content, 0.0))[1]:
            self._used.pop(name, None)  # so that the oldest is always the first
            self._used[name] = (content, now + KEY_KNOWN_FOR_MS / 1000)
        if len(self._used) > self._keys_max:
            del self._used[next(iter(self._used))]


def _digest(*parts: bytes) -> bytes:
    found = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()
