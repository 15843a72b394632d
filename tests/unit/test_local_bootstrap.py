"""The first step of every make target, and its sentences for what can go wrong."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

from deploy.local import environment
from deploy.local.layout import CHECKOUT

BOOTSTRAP = CHECKOUT / "deploy" / "local" / "bootstrap.py"


def test_an_old_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))

    with pytest.raises(SystemExit, match=r"3\.11 or newer is needed, and this is 3\.10.*PYTHON="):
        runpy.run_path(str(BOOTSTRAP))


def test_the_first_file_can_be_parsed_by_pythons_long_gone() -> None:
    source = BOOTSTRAP.read_text(encoding="utf-8")

    ast.parse(source, feature_version=(3, 4))
    assert source.isascii(), "Python 2 reads no other source without being told how"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "do not trust",
        ),
        ("ERROR: Could not find a version … (from versions: none)", "reaches a package index"),
        ("connection broken by 'NameResolutionError(…)'", "reaches a package index"),
        ("error: could not compile", "the end of .*bootstrap.log says why"),
    ],
)
def test_what_pip_says_becomes_one_sentence(output: str, sentence: str) -> None:
    assert re.search(sentence, environment.explain(output))


def locks() -> list[Path]:
    return sorted((CHECKOUT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", locks(), ids=lambda lock: lock.name)
def test_locks_name_no_index_and_no_path(lock: Path) -> None:
    content = lock.read_text(encoding="utf-8")

    for sign in ("://", "--index", "--extra-index", "--find-links", "file:", "-e "):
        assert sign not in content
    assert " /" not in content
