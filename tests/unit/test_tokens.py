import base64
import json
import time
from typing import Any

import jwt
import pytest

from shared.errors import Misconfigured, Rejected
from shared.tokens import (
    EVERY_APP,
    RIGHTS,
    Verifier,
    issue,
    key_set,
    new_key,
    public_key_set,
    read_key_set,
)

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
KEY = new_key()


def verifier(*keys: dict[str, Any], revoked: tuple[str, ...] = ()) -> Verifier:
    return Verifier(read_key_set(public_key_set(keys or [KEY])), revoked)


def token(key: dict[str, Any] = KEY, valid_s: int = 60) -> str:
    return issue(key, app=APP, rights=["update"], valid_s=valid_s)[0]


def forged(claims: dict[str, Any], *, key: Any = KEY, **header: str) -> str:
    good = {"iss": "tidemark", "jti": "1", "app": APP, "rights": ["update"], "exp": 2**40}
    return jwt.encode(
        {name: value for name, value in {**good, **claims}.items() if value is not None},
        jwt.PyJWK(key, "EdDSA"),
        "EdDSA",
        headers={"kid": key["kid"], **header},
    )


def unsigned(algorithm: str) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": "tidemark", "jti": "1", "app": "*", "rights": ["update"], "exp": 2**40}
    return f"{part({'alg': algorithm, 'kid': KEY['kid']})}.{part(claims)}."


def hs256_with_the_public_key() -> str:
    public = json.loads(public_key_set([KEY]))["keys"][0]["x"]
    claims = {"iss": "tidemark", "jti": "1", "app": "*", "rights": ["update"], "exp": 2**40}
    return jwt.encode(claims, public.ljust(64, "="), "HS256", headers={"kid": KEY["kid"]})


def changed(text: str) -> str:
    head, claims, signature = text.split(".")
    other = json.loads(base64.urlsafe_b64decode(claims + "=="))
    other["app"] = EVERY_APP
    claims = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


def test_a_token_grants_what_it_was_issued_for() -> None:
    text, grant = issue(KEY, app=APP, rights=["update"], valid_s=60)

    assert verifier().verify(text) == grant
    assert grant.covers(APP)
    assert not grant.covers("00000000-0000-4000-8000-000000000000")
    assert set(grant.rights) == {"update"}
    assert abs(grant.expires_at - time.time() - 60) < 5


def test_a_token_for_every_app_covers_each() -> None:
    _, grant = issue(KEY, app=EVERY_APP, rights=RIGHTS, valid_s=60)

    assert grant.covers(APP)


def test_two_keys_are_good_at_once_and_a_third_is_none() -> None:
    newer = new_key()

    for text in (token(KEY), token(newer)):
        assert verifier(newer, KEY).verify(text).app == APP
    with pytest.raises(Rejected, match="unknown, or retired"):
        verifier(newer).verify(token(KEY))


def test_a_revoked_token_is_refused() -> None:
    text, grant = issue(KEY, app=APP, rights=["update"], valid_s=60)

    with pytest.raises(Rejected, match="revoked"):
        verifier(revoked=(grant.token_id,)).verify(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed"),
        ("x", "malformed"),
        ("ä.ö.ü", "malformed"),
        ("x" * 5_000, "malformed"),
        (unsigned("none"), "malformed"),
        (unsigned("NONE"), "malformed"),
        (unsigned("EdDSA"), "malformed"),
        (hs256_with_the_public_key(), "malformed"),
        (changed(token()), "malformed"),
        (token()[:-4] + "AAAA", "malformed"),
        (token(new_key()), "unknown_key"),
        (forged({}, kid="../../etc/passwd"), "unknown_key"),
        (token(valid_s=-1), "expired"),
        (forged({"exp": None}), "malformed"),
        (forged({"exp": str(2**40)}), "malformed"),
        (forged({"jti": None}), "malformed"),
        (forged({"iss": "somebody"}), "malformed"),
        (forged({"app": None}), "malformed"),
        (forged({"app": ["*"]}), "malformed"),
        (forged({"rights": "update"}), "malformed"),
    ],
)
def test_what_is_no_good_token_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        verifier().verify(text)

    assert refused.value.reason == reason


def test_public_keys_sign_nothing() -> None:
    public = read_key_set(public_key_set([KEY]))[0]

    assert "d" not in public
    with pytest.raises(Misconfigured, match="public key"):
        issue(public, app=APP, rights=["update"], valid_s=60)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"keys": []}', '{"keys": [{}]}', key_set([new_key() for _ in range(3)])],
)
def test_what_is_no_key_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_key_set(text)
