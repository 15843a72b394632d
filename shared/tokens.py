"""Tokens: who may do what to which app, signed (JWT, EdDSA), and the keys for it (JWK sets).

Whoever issues tokens holds the private keys; whoever verifies them needs only the public ones.
"""

import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from shared.errors import Misconfigured, Rejected

Right = Literal["update", "read"]
"""Send updates, or ask what became of them."""

RIGHTS: Final[Sequence[Right]] = get_args(Right)
EVERY_APP: Final = "*"
LOCAL: Final = "local"
"""What the IDs of keys begin with that are made for one machine and known on it."""

TOKEN_LENGTH_MAX: Final = 2_048
VALID_KEYS_MAX: Final = 2

_ALGORITHM: Final = "EdDSA"
_ISSUER: Final = "tidemark"
_PRIVATE_PART: Final = "d"


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of a token may do, until `expires_at` (Unix time, in seconds)."""

    token_id: str
    app: str
    rights: Collection[str]
    expires_at: float

    def covers(self, app_id: str) -> bool:
        """Say whether it is about this app, whose ID is canonical UUID text."""
        return self.app in {EVERY_APP, app_id}


def new_key(prefix: str = "key") -> dict[str, Any]:
    """Return a new private key as a JWK; its ID begins with `prefix`."""
    key: dict[str, Any] = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate(), as_dict=True)
    key_id = f"{prefix}-{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(4)}"
    return {**key, "kid": key_id, "alg": _ALGORITHM, "use": "sig"}


def key_set(keys: Sequence[Mapping[str, Any]]) -> str:
    """Return a JWK set as text; the newest key comes first."""
    return json.dumps({"keys": list(keys)}, indent=1) + "\n"


def public_key_set(keys: Sequence[Mapping[str, Any]]) -> str:
    """Return the set of what verifies that which `keys` sign."""
    return key_set([{n: v for n, v in key.items() if n != _PRIVATE_PART} for key in keys])


def read_key_set(text: str) -> list[dict[str, Any]]:
    """Read a JWK set of one or two Ed25519 keys.

    Raises:
        ValueError: it is none.
    """
    try:
        keys: list[dict[str, Any]] = json.loads(text)["keys"]
        if not 1 <= len(keys) <= VALID_KEYS_MAX:
            raise ValueError(f"it must have 1 to {VALID_KEYS_MAX} keys")
        for key in keys:
            if not (isinstance(key["kid"], str) and key["kty"] == "OKP"):
                raise ValueError("its keys must be Ed25519 ones with an ID")
            jwt.PyJWK(key, _ALGORITHM)
    except (KeyError, TypeError, jwt.PyJWTError) as error:
        raise ValueError(f"it is no JWK set of Ed25519 keys ({type(error).__name__})") from error
    return keys


def issue(
    key: Mapping[str, Any], *, app: str, rights: Collection[Right], valid_s: int
) -> tuple[str, Grant]:
    """Sign a token with a private JWK; `app` is a canonical ID or `EVERY_APP`.

    Raises:
        Misconfigured: the key is a public one.
    """
    if _PRIVATE_PART not in key:
        raise Misconfigured("This is a public key, which signs nothing; name the signing keys.")
    now = int(time.time())
    grant = Grant(secrets.token_hex(8), app, frozenset(rights), now + valid_s)
    claims = {
        "iss": _ISSUER,
        "jti": grant.token_id,
        "app": app,
        "rights": sorted(rights),
        "iat": now,
        "exp": int(grant.expires_at),
    }
    private = jwt.PyJWK(dict(key), _ALGORITHM)
    return jwt.encode(claims, private, _ALGORITHM, headers={"kid": key["kid"]}), grant


class Verifier:
    """Knows the public keys that count now, and the tokens that no longer do."""

    def __init__(
        self, keys: Sequence[Mapping[str, Any]], revoked: Collection[str] = frozenset()
    ) -> None:
        self.key_ids = [key["kid"] for key in keys]
        self._keys = {key["kid"]: jwt.PyJWK(dict(key), _ALGORITHM) for key in keys}
        self._revoked = frozenset(revoked)

    def verify(self, token: str) -> Grant:
        """Return what a token grants.

        Raises:
            Rejected: it is none of ours, was changed, has expired, or is revoked.
        """
        if len(token) > TOKEN_LENGTH_MAX:
            raise Rejected("The token is too long.", reason="malformed")
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise Rejected("The token's key is unknown, or retired.", reason="unknown_key")
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                # A token is good as soon as it is issued, whatever the clocks say.
                options={"require": ["exp", "iss", "jti"], "verify_iat": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise Rejected("The token has expired.", reason="expired") from error
        except jwt.PyJWTError as error:
            raise Rejected("The token is not one of ours.", reason="malformed") from error
        if claims["jti"] in self._revoked:
            raise Rejected("The token is revoked.", reason="revoked")
        match claims:
            # PyJWT also takes an expiry that is a number in quotes.
            case {"app": str(app), "rights": [*rights], "exp": int() | float() as expires_at}:
                return Grant(claims["jti"], app, frozenset(map(str, rights)), expires_at)
        raise Rejected("The token is not one of ours.", reason="malformed")
