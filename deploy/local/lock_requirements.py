"""Renew the locks of Python packages; they name no index, host or path."""

import subprocess
import sys

from deploy.local.layout import CHECKOUT


def main() -> int:
    """Write what services, this checkout, benchmarks, a browser and the wheel's build need."""
    services = _compile("services", "pyproject.toml")
    dev = _compile("dev", "pyproject.toml", "--extra=dev", f"--constraint={services}")
    _compile("bench", "pyproject.toml", "--extra=bench", f"--constraint={dev}")
    _compile("browser", "-", f"--constraint={dev}", "--no-annotate", stdin="playwright>=1.65")
    _compile("build", "-", f"--constraint={dev}", "--no-annotate", stdin="hatchling")
    return 0


def _compile(name: str, *source: str, stdin: str = "") -> str:
    path = f"requirements/{name}.txt"
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade"),
            *("--universal", "--python-version=3.11", "--generate-hashes"),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-header"),
            *("--output-file", path, *source),
        ],
        input=stdin,
        text=True,
        cwd=CHECKOUT,
        check=True,
    )
    print(f"{path} is up to date")
    return path


if __name__ == "__main__":
    sys.exit(main())
