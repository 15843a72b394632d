"""`tidemark keys` and `tidemark token`, on files."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from operator_cli.main import app
from shared.errors import Rejected
from shared.tokens import EVERY_APP, Grant, Verifier, read_key_set

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"


class Files:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signing, self.public, self.revoked = (
            directory / name for name in ("signing_keys", "public_keys", "revoked_tokens")
        )
        for path in (self.signing, self.public, self.revoked):
            monkeypatch.setenv(f"TIDEMARK_AUTH__{path.name.upper()}_FILE", str(path))

    def verify(self, token: str) -> Grant:
        revoked = self.revoked.read_text().split() if self.revoked.exists() else ()
        return Verifier(read_key_set(self.public.read_text()), revoked).verify(token)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(tmp_path, monkeypatch)


def tidemark(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def issued(*arguments: str) -> dict[str, Any]:
    result = tidemark("token", "issue", "--days", "90", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_token_is_issued_with_keys_of_which_services_get_the_public_part(files: Files) -> None:
    assert tidemark("keys", "new").exit_code == 0

    printed = tidemark("token", "issue", "--app", APP.upper(), "--days", "90")

    grant = files.verify(printed.stdout.strip())
    assert grant.app == APP
    assert set(grant.rights) == {"update", "read"}
    assert grant.token_id in printed.stderr
    assert stat.S_IMODE(files.signing.stat().st_mode) == 0o600
    assert '"d"' not in files.public.read_text()


def test_rights_and_every_app_can_be_chosen(files: Files) -> None:
    tidemark("keys", "new")

    grant = files.verify(issued("--all-apps", "--right", "read")["token"])

    assert (grant.app, set(grant.rights)) == (EVERY_APP, {"read"})


def test_a_rotation_interrupts_nobody_and_the_second_one_retires(files: Files) -> None:
    tidemark("keys", "new")
    first = issued("--all-apps")["token"]

    once = tidemark("keys", "rotate", "--json")
    second = issued("--all-apps")["token"]
    assert files.verify(first).app == files.verify(second).app == EVERY_APP

    twice = tidemark("keys", "rotate", "--json")
    assert files.verify(second)
    with pytest.raises(Rejected, match="retired"):
        files.verify(first)
    assert json.loads(once.stdout)["retired"] == []
    assert len(json.loads(twice.stdout)["retired"]) == 1


def test_a_token_is_revoked_by_its_id(files: Files) -> None:
    tidemark("keys", "new")
    good, bad = issued("--all-apps"), issued("--all-apps")

    for _ in range(2):
        assert tidemark("token", "revoke", bad["id"]).exit_code == 0

    assert files.verify(good["token"])
    with pytest.raises(Rejected, match="revoked"):
        files.verify(bad["token"])
    assert files.revoked.read_text() == f"{bad['id']}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keys", "rotate"], "tidemark keys new"),
        (["token", "issue", "--all-apps", "--days", "1"], "tidemark keys new"),
        (["token", "issue", "--days", "1"], "either --app or --all-apps"),
        (["token", "issue", "--app", "x", "--days", "1", "--all-apps"], "either"),
        (["token", "issue", "--all-apps", "--right", "x", "--days", "1"], "update or read"),
        (["token", "revoke", "ey.j.x"], "no token ID"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(files: Files, arguments: list[str], said: str) -> None:
    result = tidemark(*arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_keys_are_never_overwritten_nor_an_id_taken_for_an_app(files: Files) -> None:
    tidemark("keys", "new")
    before = files.signing.read_bytes()

    assert tidemark("keys", "new").exit_code == 2
    assert tidemark("token", "issue", "--app", "x", "--days", "1").exit_code == 2
    assert files.signing.read_bytes() == before
