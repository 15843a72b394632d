"""One update through to its row: over HTTP in, and out of the shard."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Final

from operator_cli.subscriptions import canonical, read_subscription
from shared.errors import Misconfigured, Transient
from shared.settings import ShardDirectory

_POLL_S: Final = 0.1
_HTTP_TIMEOUT_S: Final = 30
_CLIENT_ERRORS: Final = range(400, 500)
_NO_TOKEN: Final = (401, 403)


@dataclass(frozen=True, slots=True)
class Took:
    """The receipt, where its row is, and how long it took to get there after acceptance."""

    receipt: str
    shard: str
    seconds: float


async def update_and_wait(
    url: str, app_id: str, directory: ShardDirectory, *, token: str | None, timeout_s: float
) -> Took:
    """Add one to a counter in the row of the app's subscription of the same ID, and wait for it.

    It is always the same row, so it may be repeated for ever.

    Raises:
        Misconfigured: the API refuses the update.
        Transient: it does not take it now, or the row did not come in time.
    """
    app_id = canonical("APP", app_id)
    receipt = await asyncio.to_thread(_send, url, app_id, token)
    epoch, _, offset = map(int, receipt.split("."))
    accepted_at = time.monotonic()
    while (elapsed_s := time.monotonic() - accepted_at) < timeout_s:
        row = await read_subscription(directory, app_id, app_id)
        if row is not None and (row.applied_epoch, row.applied_offset) >= (epoch, offset):
            return Took(receipt, row.shard, elapsed_s)
        await asyncio.sleep(_POLL_S)
    raise Transient(
        f"{receipt} was accepted and is not in its row after {timeout_s:.0f} s; look at the "
        "consumers' /status."
    )


def _send(url: str, app_id: str, token: str | None) -> str:
    if not url.startswith(("http://", "https://")):
        raise Misconfigured(f"{url} is no address of the ingest API; write http://host:port.")
    request = urllib.request.Request(  # noqa: S310 - the operator says where
        f"{url.rstrip('/')}/v1/apps/{app_id}/subscriptions/{app_id}",
        data=b'{"increment": {"session_count": 1}}',
        headers={
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        },
        method="PATCH",
    )
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as answer:  # noqa: S310
            receipt: str = json.load(answer)["receipt"]
            return receipt
    except urllib.error.HTTPError as error:
        detail = _detail(error.read())
        if error.code in _NO_TOKEN:
            detail += " Give a token for that app with --token or TIDEMARK_TOKEN."
        kind = Misconfigured if error.code in _CLIENT_ERRORS else Transient
        raise kind(f"The ingest API answers {error.code}: {detail}") from error
    except OSError as error:
        raise Transient(f"The ingest API at {url} does not answer ({error}).") from error


def _detail(body: bytes) -> str:
    """Return the sentence of a problem document, or what else there is."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
