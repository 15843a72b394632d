"""`tidemark hot`: the hottest subscriptions and apps, as the consumers see them."""

import asyncio
import http.client
import urllib.request
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from operator_cli.conventions import Json, print_json, print_table, with_exit_codes
from shared.errors import Misconfigured, Transient
from shared.wording import amount

if TYPE_CHECKING:
    from consumer.overview import Hot, Overview


@with_exit_codes
def hot(
    *,
    url: Annotated[
        list[str],
        typer.Option(
            "--url",
            envvar="TIDEMARK_CONSUMERS",
            help="Status address of a consumer; repeat it, or put spaces between them in the "
            "variable. A name with several addresses means all of them.",
        ),
    ] = ["http://127.0.0.1:8090"],  # noqa: B006 - typer copies it
    limit: Annotated[int, typer.Option(min=1, max=10, help="How many of each.")] = 10,
    as_json: Json = False,
) -> None:
    """Name the subscriptions and apps that get the most updates, of the last one to two minutes.

    A count with two numbers lies between them; with one it is exact. 1 if a consumer is silent,
    whose keys are missing then.
    """
    from consumer.peers import together

    views, failures = asyncio.run(_ask(url))
    if not views:
        raise failures[0]
    seen = together(views)
    rows, apps = seen.hot_subscriptions[:limit], seen.hot_apps[:limit]
    if as_json:
        print_json({"subscriptions": list(map(_members, rows)), "apps": list(map(_members, apps))})
    else:
        _print("subscription", rows)
        _print("app", apps)
    if failures:
        raise failures[0]


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # only now it is looked at
    except ValueError:
        return False
    return parts.scheme in {"http", "https"}


async def _ask(urls: list[str]) -> "tuple[list[Overview], list[Misconfigured | Transient]]":
    """Return what each consumer says, and why others say nothing."""
    from consumer.peers import addresses_of

    for each in urls:
        if not _is_address(each):
            raise Misconfigured(
                f"{each} is no address of a consumer; write http://host:port, and a space between "
                "several in TIDEMARK_CONSUMERS."
            )
    found = await asyncio.gather(*(asyncio.to_thread(addresses_of, url) for url in urls))
    outcomes = await asyncio.gather(
        *(asyncio.to_thread(_overview, each) for each in chain.from_iterable(found)),
        return_exceptions=True,
    )
    views: dict[str, Overview] = {}
    failures: list[Misconfigured | Transient] = []
    for outcome in outcomes:
        if isinstance(outcome, Misconfigured | Transient):
            failures.append(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            views[outcome.name] = outcome  # named twice, it is one all the same
    return list(views.values()), failures


def _overview(url: str) -> "Overview":
    import msgspec

    from consumer.overview import Overview

    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/overview", timeout=10) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read(), type=Overview)
    except msgspec.DecodeError as error:
        raise Misconfigured(
            f"What answers at {url} is no consumer of this version; name one with --url."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise Transient(
            f"There is no answer from a consumer at {url}; start it, or name another with --url."
        ) from error


def _members(hot: "Hot") -> dict[str, object]:
    return {
        "app": hot.app,
        "subscription": hot.subscription,
        "updates_low": hot.low,
        "updates_high": hot.high,
        "per_s": round(hot.per_s, 1),
        "share": round(hot.share, 4),
    }


def _print(title: str, keys: "Sequence[Hot]") -> None:
    rows = []
    for each in keys:
        name = each.app if each.subscription is None else f"{each.app}/{each.subscription}"
        count = amount(each.low)
        if each.high != each.low:
            count += f" to {amount(each.high)}"
        rows.append((name, count, amount(each.per_s), f"{each.share:.1%}"))
    print_table((title, "updates", "a second", "share"), rows)
