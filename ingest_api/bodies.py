"""Read a request's JSON body: declared rightly, unpacked, and bounded before it is parsed."""

import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from pydantic_core import from_json
from starlette.requests import Request

from ingest_api.problems import (
    BODY_TOO_LARGE,
    BUSY,
    INCOMPLETE,
    NOT_JSON,
    NOT_PACKED,
    TOO_COMPLEX,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemError,
)
from ingest_api.settings import SHARES, BodySettings

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

_JSON: Final = frozenset(
    {b"application/json", b"application/json;charset=utf-8", b'application/json;charset="utf-8"'}
)
_LINES: Final = frozenset({b"application/x-ndjson", b"application/x-ndjson;charset=utf-8"})
_GZIP_HEADER_AND_TRAILER: Final = 16 + zlib.MAX_WBITS
_ZSTD_WINDOW_LOG_MAX: Final = 23
"""8 MiB: what a decoder of HTTP content needs to have at most (RFC 9659)."""


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _gzip() -> _Unpacker:
    return zlib.decompressobj(_GZIP_HEADER_AND_TRAILER)


def _zstd() -> _Unpacker:
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX})


_UNPACKERS: Final[Mapping[bytes, Callable[[], _Unpacker]]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"zstd": _zstd,
}

# Possessive, and a string may lack its end: so nothing is looked at twice, whatever comes.
_without_strings = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class BodyReader:
    """Reads bodies of bounded size, and bounds what those that arrive hold together.

    One caller's may hold a part of that only, so that slow ones take nothing from others.
    Time is bounded by the server.
    """

    def __init__(self, settings: BodySettings) -> None:
        self._settings = settings
        self._held_bytes = 0
        self._held_bytes_of: defaultdict[bytes, int] = defaultdict(int)

    async def read(self, request: Request) -> bytes:
        """Return the whole body of a request about one subscription, as JSON.

        Raises:
            ProblemError: it is not declared as JSON, too large, too complex, or ends early.
        """
        encoding, _, caller = self._check_head(request, lines=False)
        body = self._unpacked(await self._receive(request, caller), encoding)
        _check_members(body, self._settings.members_max)
        return body

    async def read_batch(self, request: Request) -> bytes:
        """Return the whole body of a batch, as JSON; of one in lines, what they mean.

        Raises:
            ProblemError: as `read`.
        """
        encoding, is_lines, caller = self._check_head(request, lines=True)
        body = self._unpacked(await self._receive(request, caller), encoding)
        lines = body.strip().split(b"\n") if is_lines and body.strip() else []
        if is_lines:
            # A line for a line, so that whoever complains of one names the right one.
            body = b'{"updates":[' + b"\n,".join(lines) + b"]}"
        _check_members(body, self._settings.batch_members_max)
        _check_lines(lines)
        return body

    def _check_head(self, request: Request, *, lines: bool) -> tuple[bytes, bool, bytes]:
        """Return the content's encoding, whether it is lines of JSON, and who sends it."""
        content_type, encoding, caller = b"", b"", b""
        for name, value in request.scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"authorization":
                caller = value
            elif name == b"content-encoding":
                encoding = value.lower()
                if encoding not in _UNPACKERS and encoding != b"identity":
                    raise ProblemError(
                        UNSUPPORTED_MEDIA_TYPE,
                        "The Content-Encoding must be gzip or zstd, or none.",
                        headers={"accept-encoding": "gzip, zstd, identity"},
                    )
            elif name == b"content-length" and int(value) > self._settings.bytes_max:
                raise self._too_large()  # before it is even sent
        content_type = content_type.lower().replace(b" ", b"")
        if content_type in _JSON:
            return encoding, False, caller
        if lines and content_type in _LINES:
            return encoding, True, caller
        raise _unsupported(lines=lines)

    async def _receive(self, request: Request, caller: bytes) -> bytes:
        chunks: list[bytes] = []
        size = held = 0
        try:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ProblemError(INCOMPLETE, "The client went away.")
                chunk = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                if size > self._settings.bytes_max:
                    raise self._too_large()
                if not message.get("more_body", False):
                    return b"".join(chunks)
                if chunk:
                    held = size
                    self._hold(caller, len(chunk))
        finally:
            if held:
                self._let_go(caller, held)

    def _hold(self, caller: bytes, size: int) -> None:
        """Count a part of a body of which more is to come.

        Raises:
            ProblemError: those that arrive hold too much, of this caller or together.
        """
        self._held_bytes += size
        self._held_bytes_of[caller] += size
        held_bytes_max = self._settings.held_bytes_max
        if self._held_bytes > held_bytes_max:
            raise ProblemError(BUSY, "Too many bodies are arriving at once.")
        if caller and self._held_bytes_of[caller] > held_bytes_max // SHARES:
            raise ProblemError(BUSY, "Too many bodies of this token are arriving at once.")

    def _let_go(self, caller: bytes, size: int) -> None:
        self._held_bytes -= size
        self._held_bytes_of[caller] -= size
        if not self._held_bytes_of[caller]:
            del self._held_bytes_of[caller]

    def _unpacked(self, body: bytes, encoding: bytes) -> bytes:
        """Unpack a body, never to more than one may have."""
        if encoding not in _UNPACKERS:
            return body
        unpacker = _UNPACKERS[encoding]()
        try:
            unpacked = unpacker.decompress(body, self._settings.bytes_max + 1)
        except (zlib.error, ZstdError):
            raise ProblemError(NOT_PACKED, "The body cannot be unpacked.") from None
        if len(unpacked) > self._settings.bytes_max:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise ProblemError(NOT_PACKED, "The body is not one whole stream.")
        return unpacked

    def _too_large(self) -> ProblemError:
        return ProblemError(
            BODY_TOO_LARGE, f"A body may have {self._settings.bytes_max:,} bytes, unpacked too."
        )


def _check_members(body: bytes, members_max: int) -> None:
    """Refuse what takes long to parse and to complain of: each member beside another has a comma.

    Raises:
        ProblemError: there are too many.
    """
    if body.count(b",") < members_max:
        return
    if _without_strings.sub(b"", body).count(b",") >= members_max:
        raise ProblemError(TOO_COMPLEX, f"A body may have {members_max:,} names and values.")


def _check_lines(lines: Sequence[bytes]) -> None:
    """Refuse lines that are no JSON by themselves, whatever they are together with others.

    Raises:
        ProblemError: there is one.
    """
    for number, line in enumerate(lines, 1):
        try:
            from_json(line)
        except ValueError as error:
            what = str(error).replace(" at line 1 ", " at ")
            raise ProblemError(NOT_JSON, f"Invalid JSON in line {number}: {what}.") from None


def _unsupported(*, lines: bool) -> ProblemError:
    accepted = "application/json" + (", application/x-ndjson" if lines else "")
    return ProblemError(
        UNSUPPORTED_MEDIA_TYPE,
        f"The Content-Type must be {accepted.replace(', ', ' or ')}.",
        headers={"accept": accepted} | ({} if lines else {"accept-patch": accepted}),
    )
