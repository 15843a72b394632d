"""The key and the token of this checkout: what everything sends that talks to its ingest APIs."""

import fcntl
import time
from collections.abc import Mapping
from functools import cache
from typing import Final

from deploy.local.layout import LOCAL, write_secret
from operator_cli import keys
from shared.tokens import EVERY_APP, RIGHTS, Grant, Verifier, issue
from shared.tokens import LOCAL as LOCAL_KEY

_AUTH: Final = LOCAL / "auth"
SIGNING_KEYS: Final = _AUTH / "signing_keys.json"
PUBLIC_KEYS: Final = _AUTH / "public_keys.json"
REVOKED_TOKENS: Final = _AUTH / "revoked_tokens"
TOKEN: Final = _AUTH / "token"

_VALID_S: Final = 365 * 86_400
_LEFT_MIN_S: Final = 7 * 86_400


@cache
def token() -> str:
    """Return a token for every app, and make it, and its key, where there is none."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "auth.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not SIGNING_KEYS.exists():
            keys.create(SIGNING_KEYS, PUBLIC_KEYS, prefix=LOCAL_KEY)
        if not REVOKED_TOKENS.exists():
            keys.revoke(REVOKED_TOKENS, [])
        signing = keys.read_signing_keys(SIGNING_KEYS)
        if not (TOKEN.exists() and _is_good(Verifier(signing, REVOKED_TOKENS.read_text().split()))):
            text, _ = issue(signing[0], app=EVERY_APP, rights=RIGHTS, valid_s=_VALID_S)
            write_secret(TOKEN, text)
        return TOKEN.read_text(encoding="utf-8")


def headers() -> dict[str, str]:
    """Return the header fields that let a request in."""
    return {"Authorization": f"Bearer {token()}"}


def variables() -> Mapping[str, str]:
    """Return what makes an ingest API accept this checkout's token, as fast as it can."""
    token()
    return {
        "TIDEMARK_MODE": "local",
        "TIDEMARK_AUTH__PUBLIC_KEYS_FILE": str(PUBLIC_KEYS),
        "TIDEMARK_AUTH__REVOKED_TOKENS_FILE": str(REVOKED_TOKENS),
        "TIDEMARK_LIMITS__APP_UPDATES_PER_S": "0",
        "TIDEMARK_LIMITS__SUBSCRIPTION_UPDATES_PER_S": "0",
    }


def _is_good(verifier: Verifier) -> bool:
    from shared.errors import Rejected

    try:
        grant: Grant = verifier.verify(TOKEN.read_text(encoding="utf-8"))
    except Rejected:
        return False
    return grant.expires_at - time.time() > _LEFT_MIN_S
