"""Read a request's JSON body: its header fields checked, its size counted while it arrives."""

from typing import Final

from starlette.requests import Request

from ingest_api.problems import (
    BODY_TOO_LARGE,
    BUSY,
    INCOMPLETE,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemError,
)
from ingest_api.settings import BodySettings

_PLAIN_JSON: Final = frozenset(
    {b"application/json", b"application/json;charset=utf-8", b'application/json;charset="utf-8"'}
)


class BodyReader:
    """Reads bodies of bounded size, and bounds what those that arrive hold together.

    FastAPI's own limit counts too, but answers plain text. Time is bounded by the server.
    """

    def __init__(self, settings: BodySettings) -> None:
        self._settings = settings
        self._held_bytes = 0

    async def read(self, request: Request) -> bytes:
        """Return the whole body.

        Raises:
            ProblemError: it is not declared as JSON, too large, or ends early.
        """
        self._check_head(request)
        return await self._receive(request)

    def _check_head(self, request: Request) -> None:
        content_type = b""
        for name, value in request.scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise ProblemError(
                    UNSUPPORTED_MEDIA_TYPE,
                    "A Content-Encoding is not supported.",
                    headers={"accept-encoding": "identity"},
                )
            elif name == b"content-length" and int(value) > self._settings.bytes_max:
                raise self._too_large()  # before it is even sent
        if content_type.lower().replace(b" ", b"") not in _PLAIN_JSON:
            raise ProblemError(
                UNSUPPORTED_MEDIA_TYPE,
                "The Content-Type must be application/json.",
                headers={"accept": "application/json", "accept-patch": "application/json"},
            )

    async def _receive(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ProblemError(INCOMPLETE, "The client went away.")
                chunk = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                self._held_bytes += len(chunk)
                if size > self._settings.bytes_max:
                    raise self._too_large()
                if not message.get("more_body", False):
                    return b"".join(chunks)
                if self._held_bytes > self._settings.held_bytes_max:
                    raise ProblemError(BUSY, "Too many bodies are arriving at once.")
        finally:
            self._held_bytes -= size

    def _too_large(self) -> ProblemError:
        return ProblemError(BODY_TOO_LARGE, f"A body may have {self._settings.bytes_max:,} bytes.")
