"""The files of keys and revocations: the private keys stay here, the public ones go to services."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shared.errors import Misconfigured
from shared.tokens import VALID_KEYS_MAX, key_set, new_key, public_key_set, read_key_set

_PRIVATE_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644


def create(signing: Path, public: Path, *, prefix: str = "key") -> str:
    """Make the first key; return its ID.

    Raises:
        Misconfigured: there are keys already, or a file cannot be written.
    """
    if signing.exists():
        raise Misconfigured(
            f"{signing} is there already, and tokens may depend on it; `tidemark keys rotate` adds "
            "a key to it."
        )
    key = new_key(prefix)
    _write_both(signing, public, [key])
    return str(key["kid"])


def rotate(signing: Path, public: Path) -> tuple[str, Sequence[str]]:
    """Add a key that signs from now on; return its ID and those of the keys that go.

    The key before it stays good, so that its tokens do.

    Raises:
        Misconfigured: there are no keys, or a file cannot be written.
    """
    before = read_signing_keys(signing)
    key = new_key()
    kept = [key, *before][:VALID_KEYS_MAX]
    _write_both(signing, public, kept)
    return str(key["kid"]), [each["kid"] for each in before if each not in kept]


def read_signing_keys(path: Path) -> list[dict[str, Any]]:
    """Read the private keys; the first one signs.

    Raises:
        Misconfigured: they cannot be read.
    """
    try:
        return read_key_set(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(
            f"The signing keys {path} cannot be read ({error.strerror}); make them with "
            "`tidemark keys new`, or name them with --signing-keys."
        ) from error
    except ValueError as error:
        raise Misconfigured(f"The signing keys {path} are wrong: {error}.") from error


def revoke(path: Path, token_ids: Sequence[str]) -> int:
    """Add tokens to the list of those that are good no longer; return how many are on it.

    Raises:
        Misconfigured: the list cannot be read or written.
    """
    try:
        before = path.read_text(encoding="utf-8").split() if path.exists() else []
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror}).") from error
    revoked = list(dict.fromkeys([*before, *token_ids]))
    _write(path, "".join(f"{each}\n" for each in revoked), _PUBLIC_MODE)
    return len(revoked)


def _write_both(signing: Path, public: Path, keys: Sequence[Mapping[str, Any]]) -> None:
    # Public first: what is signed can be verified at any time.
    _write(public, public_key_set(keys), _PUBLIC_MODE)
    _write(signing, key_set(keys), _PRIVATE_MODE)


def _write(path: Path, content: str, mode: int) -> None:
    """Replace a file whole; nobody else can read a private one at any time."""
    new = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:  # noqa: PTH123
            file.write(content)
        new.replace(path)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written ({error.strerror}).") from error
