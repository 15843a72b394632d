"""The command `tidemark`: exit codes and sentences."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.local.__main__ import parser
from operator_cli.main import app


def test_help_names_commands_examples_and_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    for word in ("migrate", "topics", "Examples", "Exit codes"):
        assert word in result.output


def test_what_stands_behind_make_tidemark_is_for_the_command() -> None:
    arguments = ["shards", "check", "--help", "-x", "--shard-map", "a b", "--"]

    assert parser().parse_args(["tidemark", *arguments]).arguments == arguments
    assert parser().parse_args(["tidemark", "--help"]).arguments == ["--help"]


def test_a_missing_shard_map_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["migrate", "--shard-map", str(tmp_path / "none.json")])

    assert result.exit_code == 2
    assert result.stderr.startswith("tidemark: The shard map ")
    assert result.stderr.count("\n") == 1


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_KAFKA__REQUEST_TIMEOUT_MS", "soon")

    result = CliRunner().invoke(app, ["topics", "create"])

    assert result.exit_code == 2
    assert "TIDEMARK_KAFKA__REQUEST_TIMEOUT_MS" in result.stderr
