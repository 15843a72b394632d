"""`docs/guarantees.md` names tests; a name that leads nowhere is a promise without a proof."""

import re

from deploy.local.layout import CHECKOUT

TABLE = CHECKOUT / "docs" / "guarantees.md"


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text(encoding="utf-8")))
    sources = (path.read_text(encoding="utf-8") for path in CHECKOUT.glob("tests/**/*.py"))
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)", source)}

    assert named
    assert named <= defined


def test_every_setting_that_the_guarantees_name_exists() -> None:
    text = TABLE.read_text(encoding="utf-8")
    named = set(re.findall(r"`\w+\.(\w+_(?:ms|max|min|s|records))`", text))
    sources = (
        path.read_text(encoding="utf-8")
        for pattern in ("*/settings.py", "shared/*.py")
        for path in CHECKOUT.glob(pattern)
    )
    field = re.compile(r"^    (\w+): ", re.MULTILINE)
    defined = {name for source in sources for name in field.findall(source)}

    assert named
    assert named <= defined
