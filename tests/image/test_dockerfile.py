"""The Dockerfile, without an engine: linted, and its steps done in clean virtual environments."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.layout import CHECKOUT

DOCKERFILE = CHECKOUT / "deploy" / "Dockerfile"


def test_hadolint_has_no_objection() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint is not None, "hadolint comes as a wheel for Linux on x86_64 only"

    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)

    assert (found.returncode, found.stdout) == (0, "")


def instructions(stage: int) -> Iterator[tuple[str, str]]:
    """Yield the instructions of one stage, and what follows them."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    stages = text.replace("\\\n", " ").split("\nFROM ")[1:]
    for line in stages[stage].splitlines()[1:]:
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image would have in /opt/tidemark."""
    root = tmp_path_factory.mktemp("image")
    source, installed = root / "src", root / "opt" / "tidemark"
    source.mkdir()
    subprocess.run([sys.executable, "-m", "venv", root / "python"], check=True)
    environment = {"PATH": f"{root}/python/bin:{os.defpath}", "HOME": str(root)}
    # Where packages come from is the machine's own business.
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for name, rest in instructions(0):
        if name == "COPY":
            copy_context(source)
        elif name == "RUN":
            command = rest.replace("/opt/tidemark", str(installed)).replace(
                "/wheels", f"{root}/wheels"
            )
            run = subprocess.run(
                command,
                shell=True,
                cwd=source,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    shutil.rmtree(source)
    return installed


def copy_context(target: Path) -> None:
    """Copy what the ignore file lets through: all is ignored but what is named."""
    lines = (CHECKOUT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    for line in lines:
        if line.startswith("!"):
            path = CHECKOUT / line[1:]
            if path.is_dir():
                shutil.copytree(
                    path,
                    target / line[1:],
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )
            else:
                shutil.copy(path, target / line[1:])


def run_in(image: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [image / "bin" / command[0], *command[1:]],
        cwd="/",
        env={"PATH": f"{image}/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        ["tidemark", "--help"],
        ["python", "-m", "ingest_api", "--help"],
        ["python", "-m", "consumer", "--help"],
    ],
)
def test_every_program_of_the_image_starts(image: Path, command: list[str]) -> None:
    found = run_in(image, *command)

    assert found.returncode == 0, found.stderr
    assert "Usage" in found.stdout


def test_the_image_brings_its_migrations_and_statements(image: Path) -> None:
    program = (
        "from operator_cli.migrations import known_migrations; import consumer.store; "
        "print(*known_migrations())"
    )
    found = run_in(image, "python", "-c", program)

    names = sorted(path.stem for path in (CHECKOUT / "deploy" / "migrations").glob("*.sql"))
    assert found.stdout.split() == [name.removesuffix(".concurrently") for name in names]


def test_without_settings_a_sentence_says_what_is_missing(image: Path) -> None:
    found = run_in(image, "python", "-m", "consumer")

    assert found.returncode == 2
    assert found.stderr.startswith("consumer: The shard map shard_map.json cannot be read")


def test_nothing_for_development_or_installation_is_in_the_image(image: Path) -> None:
    found = run_in(
        image,
        "python",
        "-c",
        "from importlib.metadata import distributions as d; print(*sorted(x.name for x in d()))",
    )

    assert not {"pip", "setuptools", "hatchling", "pytest", "aiohttp"} & set(found.stdout.split())


def test_it_runs_as_nobody_in_particular_and_is_told_how(tmp_path: Path) -> None:
    last = list(instructions(1))

    assert ("USER", "10001") in last
    assert [name for name, _ in last][-1] == "CMD"
    assert not [rest for name, rest in instructions(0) if name == "RUN" and "curl" in rest]
