"""Who may do what to which app: by the token of each request, verified once and remembered."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from starlette.requests import Request

from ingest_api.patches import canonical_id
from ingest_api.problems import FORBIDDEN, UNAUTHORIZED, ProblemError
from ingest_api.settings import IngestSettings
from shared.errors import Misconfigured, Rejected
from shared.tokens import (
    EVERY_APP,
    LOCAL,
    RIGHTS,
    TOKEN_LENGTH_MAX,
    Grant,
    Right,
    Verifier,
    read_key_set,
)

log = structlog.get_logger()

_GRANTS_MAX: Final = 4_096
_AUTHORIZATION_LENGTH_MAX: Final = TOKEN_LENGTH_MAX + 16
_SCHEMES: Final = frozenset({"bearer", "key", "basic"})
"""Bearer is ours; the other two are how clients of the API this replaces send their keys."""
_ANYBODY: Final = Grant("", EVERY_APP, frozenset(RIGHTS), float("inf"))


class Access:
    """Tells what the sender of a request may do; without a verifier everybody may do everything."""

    def __init__(self, verifier: Verifier | None, clock: Callable[[], float] = time.time) -> None:
        self._verifier = verifier
        self._clock = clock
        self._grants: dict[bytes, Grant] = {}

    def trust(self, verifier: Verifier) -> None:
        """Go by other keys and revocations from now on."""
        self._verifier = verifier
        self._grants.clear()

    def grant(self, request: Request, right: Right) -> Grant:
        """Return what the request's token grants, `right` being part of it.

        Raises:
            ProblemError: 401 without a good token, 403 where it does not grant the right.
        """
        if self._verifier is None:
            return _ANYBODY
        authorization = _authorization(request)
        grant = self._grants.get(authorization)
        if grant is None:
            grant = self._remembered(authorization, self._verifier)
        if grant.expires_at <= self._clock():
            raise _unauthorized("The token has expired.", "invalid_token")
        if right not in grant.rights:
            raise _forbidden(f"The token does not grant the right {right!r}.")
        return grant

    def to_app(self, request: Request, right: Right, app_id: str) -> str:
        """Return the app's ID in the one spelling that is stored, if the request may do this.

        Raises:
            ProblemError: 401 and 403 as `grant`; 403 where the token is for another app; 422
                where the ID is none.
        """
        grant = self.grant(request, right)
        app_id = canonical_id("app_id", app_id)
        if not grant.covers(app_id):
            raise _forbidden("The token is for another app.")
        return app_id

    def _remembered(self, authorization: bytes, verifier: Verifier) -> Grant:
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        if scheme.lower() not in _SCHEMES or len(authorization) > _AUTHORIZATION_LENGTH_MAX:
            raise _unauthorized("The Authorization header field must read: Bearer, and a token.")
        try:
            grant = verifier.verify(token.strip())
        except Rejected as rejected:
            raise _unauthorized(str(rejected), "invalid_token") from rejected
        if len(self._grants) >= _GRANTS_MAX:
            self._grants.clear()
        self._grants[authorization] = grant
        return grant


def _authorization(request: Request) -> bytes:
    for name, value in request.scope["headers"]:
        if name == b"authorization":
            found: bytes = value
            return found
    raise _unauthorized("The request has no Authorization header field.")


def open_access(settings: IngestSettings) -> Access:
    """Read keys and revocations.

    Raises:
        Misconfigured: they cannot be read, or a key made for one machine is to be trusted in
            production.
    """
    if not settings.auth.required:
        log.warning("auth.off", meaning="Whoever reaches the port may do everything.")
        return Access(None)
    return Access(_read_verifier(settings))


async def keep_current(access: Access, settings: IngestSettings) -> None:
    """Follow changes of the files, for ever; one that cannot be read changes nothing."""
    if not settings.auth.required:
        return
    files = (settings.auth.public_keys_file, settings.auth.revoked_tokens_file)
    seen: Sequence[object] = ()  # whatever changed since the start is read by the first look
    while True:
        await asyncio.sleep(settings.auth.reload_interval_ms / 1000)
        now = await asyncio.to_thread(_versions, files)
        if now == seen:
            continue
        seen = now
        try:
            verifier = await asyncio.to_thread(_read_verifier, settings)
        except Misconfigured as error:
            log.error("auth.not_reloaded", reason=str(error))  # noqa: TRY400 - says it all
        else:
            access.trust(verifier)
            log.info("auth.reloaded", keys=verifier.key_ids)


def _read_verifier(settings: IngestSettings) -> Verifier:
    path = settings.auth.public_keys_file
    if path is None:
        raise Misconfigured(
            "TIDEMARK_AUTH__PUBLIC_KEYS_FILE is not set; name the public keys that "
            "`tidemark keys new` has written."
        )
    try:
        keys = read_key_set(_read(path))
    except ValueError as error:
        raise Misconfigured(f"The public keys {path} are wrong: {error}.") from error
    local = [key["kid"] for key in keys if key["kid"].startswith(LOCAL)]
    if local and settings.mode == "production":
        raise Misconfigured(
            f"Key {local[0]} is a local one, which must not be trusted in production; make keys "
            "with `tidemark keys new`, and name the public ones with "
            "TIDEMARK_AUTH__PUBLIC_KEYS_FILE."
        )
    revoked: Sequence[str] = ()
    if settings.auth.revoked_tokens_file is not None:
        revoked = _read(settings.auth.revoked_tokens_file).split()
    return Verifier(keys, revoked)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured(
            f"{path} cannot be read ({error.strerror}); name a readable file."
        ) from error


def _versions(files: Sequence[Path | None]) -> Sequence[object]:
    """Return what changes whenever a file does, also where it is replaced by another."""
    versions: list[object] = []
    for path in files:
        try:
            found = path and path.stat()
        except OSError:
            found = None
        versions.append(found and (found.st_mtime_ns, found.st_ino, found.st_size))
    return versions


def _unauthorized(detail: str, error: str | None = None) -> ProblemError:
    challenge = "Bearer" + (f' error="{error}"' if error else "")
    return ProblemError(UNAUTHORIZED, detail, headers={"www-authenticate": challenge})


def _forbidden(detail: str) -> ProblemError:
    challenge = 'Bearer error="insufficient_scope"'
    return ProblemError(FORBIDDEN, detail, headers={"www-authenticate": challenge})
