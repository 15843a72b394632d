"""The two requests that no client of ours can send: is a broker there, and a member is gone."""

import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from deploy.local.ports import HOST

_API_VERSIONS: Final = (18, 0)
_LEAVE_GROUP: Final = (13, 3)
_COORDINATOR_LOADING: Final = (14, 16)
_ANSWER_TIMEOUT_S: Final = 2.0
_LOADING_TIMEOUT_S: Final = 5.0


def answers(port: int) -> bool:
    """Ask the broker which API versions it speaks; it answers when it serves."""
    try:
        return len(_ask(port, _API_VERSIONS, b"")) > 0
    except OSError:
        return False


def remove_static_members(port: int, group: str, names: Sequence[str]) -> None:
    """Take members out of a group whether they are in it or not.

    A static member that stops keeps its partitions until its session ends, as it is expected
    back. One that is not to come back must be taken out by somebody else.
    """
    members = b"".join(_string("") + _string(name) for name in names)
    body = _string(group) + struct.pack(">i", len(names)) + members
    deadline = time.monotonic() + _LOADING_TIMEOUT_S
    while time.monotonic() < deadline:
        _throttle_ms, error = struct.unpack_from(">ih", _ask(port, _LEAVE_GROUP, body))
        if error not in _COORDINATOR_LOADING:
            return
        time.sleep(0.1)


def _ask(port: int, api: tuple[int, int], body: bytes) -> bytes:
    """Send one request, and return the body of its response."""
    message = struct.pack(">hhi", *api, 0) + _string("tidemark-local") + body
    with socket.create_connection((HOST, port), timeout=_ANSWER_TIMEOUT_S) as connection:
        connection.sendall(struct.pack(">i", len(message)) + message)
        with connection.makefile("rb") as response:
            header = response.read(8)
            if len(header) < 8:  # noqa: PLR2004 - length and correlation ID
                raise ConnectionError("The broker closed the connection.")
            length, _correlation = struct.unpack(">ii", header)
            return response.read(length - 4)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded
