"""The tests' own fixtures, and a real Chromium."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from tests.conftest import databases, kafka_settings, shard_map_file, stack

__all__ = ["databases", "kafka_settings", "shard_map_file", "stack"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """The Chromium of this machine; CHROMIUM names another one."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    assert path, "There is no Chromium: install one, or name it with CHROMIUM=…."
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        await chromium.close()
