"""The lock of the broker's jars."""

import hashlib
from pathlib import Path

import pytest

from deploy.local.jars import Jar, locked_jars, parse_lock, verify
from shared.errors import Misconfigured

CONTENT = b"a jar"
JAR = Jar("org.example", "thing", "1.2", hashlib.sha256(CONTENT).hexdigest())


def test_a_lock_file_is_read_back_as_written() -> None:
    assert parse_lock(f"# a comment\n\n{JAR}\n{JAR}  # twice\n") == [JAR, JAR]


@pytest.mark.parametrize(
    "line",
    [
        "org.example:thing:1.2",
        "org.example:thing sha256:" + "0" * 64,
        "a:b:c sha256:beef",
        "<html>",
    ],
)
def test_a_line_that_is_something_else_is_named(line: str) -> None:
    with pytest.raises(Misconfigured, match=r"Line 2 of jars\.lock .*make lock"):
        parse_lock(f"# the first\n{line}\n")


def test_the_committed_lock_holds_a_broker_and_its_log_binding() -> None:
    artifacts = {jar.artifact for jar in locked_jars()}

    assert {"kafka_2.13", "kafka-clients", "log4j-slf4j-impl"} <= artifacts


def test_the_right_jar_is_kept(tmp_path: Path) -> None:
    path = tmp_path / JAR.file_name
    path.write_bytes(CONTENT)

    verify(JAR, path)

    assert path.exists()


def test_a_wrong_jar_is_named_and_removed(tmp_path: Path) -> None:
    path = tmp_path / JAR.file_name
    path.write_bytes(CONTENT + b" that somebody changed")

    with pytest.raises(Misconfigured, match=r"thing-1\.2\.jar does not have .* run the same"):
        verify(JAR, path)

    assert not path.exists()
