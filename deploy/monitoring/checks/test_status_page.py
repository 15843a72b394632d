"""The status page in a real browser, of a real consumer with a hot row and a shard that is down."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from deploy.local.layout import CHECKOUT
from deploy.local.stack import LocalStack
from shared.settings import KafkaSettings
from tests.consumers import consumer_environment, produce, service_process
from tests.records import APP, subscription, update_of
from verification.oracle import Ledger

PATIENCE_MS = 60_000
PICTURES = CHECKOUT / "docs" / "pictures"
APPS = [f"{n:02x}000000-0000-4000-8000-000000000000" for n in range(0, 256, 4)]


@dataclass
class Shown:
    """A consumer whose page is open in a browser."""

    url: str
    page: Page
    kafka: KafkaSettings
    stack: LocalStack
    requested: list[str] = field(default_factory=list)

    async def send(self, *, hot: int, others: int) -> None:
        updates = [update_of(5, tags={"n": n}) for n in range(hot)]
        updates += [update_of(n % 97, APPS[n % 64], tags={"n": n}) for n in range(others)]
        await produce(self.kafka, updates, Ledger())


@pytest.fixture
async def shown(
    browser: Browser, kafka_settings: KafkaSettings, shard_map_file: Path, stack: LocalStack
) -> AsyncIterator[Shown]:
    environment = {
        **consumer_environment(kafka_settings, shard_map_file),
        "TIDEMARK_TELEMETRY__LAG_INTERVAL_MS": "500",
        "TIDEMARK_GROUP__INSTANCE_ID": "consumer-1",
    }
    async with service_process("consumer", environment) as consumer:
        await consumer.wait_ready()
        page = await browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        shown = Shown(consumer.url, page, kafka_settings, stack)
        page.on("request", lambda request: shown.requested.append(request.url))
        await page.goto(consumer.url)
        yield shown
        await page.close()


async def test_the_page_tells_what_is_wrong_as_it_happens(shown: Shown) -> None:
    page = shown.page
    await expect(page.get_by_text("All is well.")).to_be_visible(timeout=PATIENCE_MS)
    shards = page.get_by_role("region", name="Table of shards")
    await shards.focus()

    await shown.send(hot=4_000, others=2_000)
    row = page.get_by_text(f"subscription {subscription(5)} of app {APP}")
    await expect(row).to_be_visible(timeout=PATIENCE_MS)
    await asyncio.to_thread(shown.stack.shards["shard-2"].kill)
    await shown.send(hot=0, others=6_000)
    down = page.get_by_text("shard-2 cannot be written since")
    await expect(down).to_be_visible(timeout=PATIENCE_MS)
    # It was never loaded anew, so whoever reads it with keys is where they were.
    await expect(shards).to_be_focused()
    partitions = page.get_by_role("img", name="of 720 partitions have records waiting")
    await expect(partitions).to_be_visible(timeout=PATIENCE_MS)
    line = page.get_by_role("row", name="shard-2 8 to b")
    await expect(line).to_contain_text("open", timeout=PATIENCE_MS)
    await asyncio.sleep(8)  # for the picture: some seconds of both curves
    PICTURES.mkdir(exist_ok=True)
    await page.screenshot(path=PICTURES / "status-page.png", full_page=True)
    light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.screenshot(path=PICTURES / "status-page-dark.png", full_page=True)
    requested = list(shown.requested)
    await page.set_viewport_size({"width": 390, "height": 844})
    too_wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    await page.screenshot(path=PICTURES / "status-page-narrow.png")
    await page.set_viewport_size({"width": 1180, "height": 900})
    await page.emulate_media(color_scheme="light")
    await page.goto(f"{shown.url}/public")
    public, text = await page.content(), await page.inner_text("body")
    await page.screenshot(path=PICTURES / "status-page-public.png", full_page=True)
    await page.goto(shown.url)
    await asyncio.to_thread(shown.stack.heal)
    await expect(down).not_to_be_visible(timeout=PATIENCE_MS)

    assert light != dark
    assert not too_wide
    assert all(each.startswith(shown.url) for each in requested)
    assert subscription(5) not in public
    assert APP not in public
    assert "shard-" not in text


async def test_the_first_key_leads_past_the_heading_to_what_is_wrong(shown: Shown) -> None:
    page = shown.page

    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="To what is wrong now")).to_be_focused()
    await page.keyboard.press("Enter")

    assert page.url.endswith("#now")


@pytest.mark.parametrize("answer", ["none", "never", "error"])
async def test_a_page_without_an_answer_says_so_and_not_that_all_is_well(
    shown: Shown, answer: str
) -> None:
    async def refuse(route: Route) -> None:
        if answer == "none":
            await route.abort()
        elif answer == "error":
            await route.fulfill(status=502, body="Bad Gateway")

    page = shown.page
    await expect(page.get_by_text("All is well.")).to_be_visible(timeout=PATIENCE_MS)
    await page.route("**/*", refuse)

    await expect(page.get_by_text("no answer from the consumer")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.get_by_text("how things stand is not known")).to_be_visible()
    await expect(page.get_by_text("All is well.")).not_to_be_visible()

    await page.unroute("**/*")
    await expect(page.get_by_text("All is well.")).to_be_visible(timeout=PATIENCE_MS)
