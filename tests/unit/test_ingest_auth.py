import asyncio
from pathlib import Path

import httpx
import pytest

from ingest_api.auth import Access, keep_current, open_access
from ingest_api.settings import AuthSettings, IngestSettings
from operator_cli import keys
from shared.errors import Misconfigured
from shared.tokens import EVERY_APP, RIGHTS, Right, Verifier, issue, new_key, public_key_set
from tests.fake_publisher import FakePublisher
from tests.ingest_apps import served

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
OTHER = "00000000-0000-4000-8000-000000000000"
PATH = f"/v1/apps/{APP}/subscriptions/1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"
KEY = new_key()
PATIENCE_S = 30


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def token(app: str = APP, *rights: Right, valid_s: int = 3_600) -> str:
    return issue(KEY, app=app, rights=rights or RIGHTS, valid_s=valid_s)[0]


def client(access: Access) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(served(FakePublisher(), access=access))
    return httpx.AsyncClient(transport=transport, base_url="http://tidemark")


async def patch(
    authorization: str | None, *, access: Access | None = None, path: str = PATH
) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    async with client(access or Access(Verifier([KEY]))) as http:
        return await http.patch(path, json={"tags": {"a": 1}}, headers=headers)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Key", "Basic"])
@pytest.mark.parametrize("app", [APP, EVERY_APP])
async def test_a_good_token_lets_in(scheme: str, app: str) -> None:
    assert (await patch(f"{scheme} {token(app)}")).status_code == 202


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, "Bearer"),
        ("", "Bearer"),
        ("Digest x", "Bearer"),
        ("Bearer", 'Bearer error="invalid_token"'),
        ("Bearer x", 'Bearer error="invalid_token"'),
        (f"Bearer {token(valid_s=-1)}", 'Bearer error="invalid_token"'),
        (f"Bearer {' ' * 5_000}{token()}", "Bearer"),
    ],
)
async def test_without_a_good_token_it_is_401(authorization: str | None, challenge: str) -> None:
    answer = await patch(authorization)

    assert answer.status_code == 401
    assert answer.json()["type"] == "/problems/unauthorized"
    assert answer.headers["www-authenticate"] == challenge


async def test_who_is_not_let_in_is_not_told_what_an_app_is() -> None:
    answers = [await patch(None, path=PATH.replace(APP, app)) for app in (APP, OTHER, "x")]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(
    "authorization", [f"Bearer {token(OTHER)}", f"Bearer {token(APP, 'read')}"]
)
async def test_another_app_or_right_is_403(authorization: str) -> None:
    answer = await patch(authorization)

    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/forbidden"


async def test_a_token_ends_also_where_it_is_remembered() -> None:
    text, grant = issue(KEY, app=APP, rights=RIGHTS, valid_s=60)
    clock = Clock(grant.expires_at - 1)
    access = Access(Verifier([KEY]), clock)

    before = await patch(f"Bearer {text}", access=access)
    clock.now += 1
    after = await patch(f"Bearer {text}", access=access)

    assert (before.status_code, after.status_code) == (202, 401)


async def test_a_token_is_verified_once_until_trust_changes() -> None:
    class Counting(Verifier):
        count = 0

        def verify(self, token: str) -> object:  # type: ignore[override]
            Counting.count += 1
            return super().verify(token)

    text, grant = issue(KEY, app=APP, rights=RIGHTS, valid_s=60)
    access = Access(Counting([KEY]))

    statuses = [(await patch(f"Bearer {text}", access=access)).status_code for _ in range(3)]
    access.trust(Verifier([KEY], [grant.token_id]))
    revoked = await patch(f"Bearer {text}", access=access)

    assert statuses == [202] * 3
    assert Counting.count == 1
    assert revoked.status_code == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/problems/invalid"])
async def test_what_tells_nothing_of_anybody_needs_no_token(path: str) -> None:
    async with client(Access(Verifier([KEY]))) as http:
        assert (await http.get(path)).status_code == 200


def settings(
    public: Path | None,
    *,
    mode: str = "production",
    required: bool = True,
    revoked: Path | None = None,
) -> IngestSettings:
    auth = AuthSettings(
        required=required,
        public_keys_file=public,
        revoked_tokens_file=revoked,
        reload_interval_ms=10,
    )
    return IngestSettings(auth=auth, mode=mode)


async def test_a_token_that_is_revoked_while_the_service_starts_is_refused(tmp_path: Path) -> None:
    public, revoked = tmp_path / "public", tmp_path / "revoked"
    public.write_text(public_key_set([KEY]))
    revoked.write_text("")
    text, grant = issue(KEY, app=APP, rights=RIGHTS, valid_s=60)
    found = settings(public, revoked=revoked)
    access = open_access(found)
    revoked.write_text(f"{grant.token_id}\n")

    follower = asyncio.create_task(keep_current(access, found))
    async with asyncio.timeout(PATIENCE_S):
        while (await patch(f"Bearer {text}", access=access)).status_code != 401:
            await asyncio.sleep(0.01)
    follower.cancel()


def test_a_local_key_is_refused_in_production(tmp_path: Path) -> None:
    keys.create(tmp_path / "signing", tmp_path / "public", prefix="local")

    with pytest.raises(Misconfigured, match="local one"):
        open_access(settings(tmp_path / "public"))

    assert open_access(settings(tmp_path / "public", mode="local"))


def test_without_keys_it_does_not_start_unless_told_so(tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("{}")

    for path, said in (
        (None, "PUBLIC_KEYS_FILE"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "wrong", "are wrong"),
    ):
        with pytest.raises(Misconfigured, match=said):
            open_access(settings(path))

    assert open_access(settings(None, required=False))
