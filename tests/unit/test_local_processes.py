"""PID files: nobody else's process is ever taken for ours."""

import json
from pathlib import Path

from deploy.local.launch import write_identity
from deploy.local.processes import find


def test_a_process_is_found_by_the_pid_file_that_it_wrote(tmp_path: Path) -> None:
    pid_file = tmp_path / "me.pid"

    write_identity(pid_file)

    found = find(pid_file)
    assert found is not None
    assert found.pid == json.loads(pid_file.read_text(encoding="utf-8"))["pid"]


def test_a_pid_that_belongs_to_another_by_now_is_not_found(tmp_path: Path) -> None:
    pid_file = tmp_path / "me.pid"
    write_identity(pid_file)
    identity = json.loads(pid_file.read_text(encoding="utf-8"))

    pid_file.write_text(json.dumps({**identity, "started": identity["started"] - 60}))

    assert find(pid_file) is None


def test_a_pid_file_of_nobody_is_not_found(tmp_path: Path) -> None:
    pid_file = tmp_path / "me.pid"

    for content in ("", "{", '{"pid": 4194999, "started": 1.0}', '{"pid": 1}', "[]"):
        pid_file.write_text(content, encoding="utf-8")
        assert find(pid_file) is None

    assert find(tmp_path / "missing.pid") is None
