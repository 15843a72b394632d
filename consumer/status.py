"""What the consumer says of itself over HTTP: alive, ready, and the figures behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from consumer.assigned_work import AssignedWork
from consumer.dead_letters import UnreadableRecords
from consumer.holding import HoldingTopic
from consumer.overview import Overview
from consumer.peers import Gathering
from consumer.shard_writer import ShardWriter
from consumer.status_page import render
from shared.holds import Holds, HoldState
from shared.telemetry import Telemetry, metrics_route


class ConsumerStatus:
    """The consumer as seen from outside, read at each request."""

    def __init__(
        self,
        work: AssignedWork,
        writers: Mapping[str, ShardWriter],
        unreadable: UnreadableRecords,
        holds: Holds,
        holding: HoldingTopic,
    ) -> None:
        self.draining = False
        self._work = work
        self._writers = writers
        self._unreadable = unreadable
        self._holds = holds
        self._holding = holding

    @property
    def not_ready_because(self) -> str | None:
        """Why no work should be expected of it; None when it is ready."""
        if self.draining:
            return "It is draining before it stops."
        if self._work.assignments == 0:
            return "It has not been assigned partitions yet."
        return None

    def figures(self) -> Mapping[str, Any]:
        """Return counts since the start, by shard, and what is in flight."""
        partitions = self._work.partitions.values()
        return {
            "ready": self.not_ready_because is None,
            "partitions": len(partitions),
            "partitions_paused": sum(work.paused for work in partitions),
            "partitions_stopped": sum(work.stopped for work in partitions),
            "partitions_diverted": sum(work.diversion.is_active for work in partitions),
            "records_in_flight": sum(work.records_in_flight for work in partitions),
            "unreadable_dead_lettered": self._unreadable.count,
            "holds_active": sum(
                view.state is not HoldState.RELEASED for view in self._holds.views()
            ),
            "updates_held": self._holding.count,
            "rebalances": self._work.assignments,
            "shards": {
                name: {
                    "breaker": writer.breaker.state.value,
                    "locked": writer.locked,
                    **asdict(writer.counts),
                }
                for name, writer in self._writers.items()
            },
        }


def create_status_app(
    status: ConsumerStatus,
    telemetry: Telemetry,
    overview: Callable[[], Overview],
    peers: Sequence[str],
) -> Starlette:
    """Build the app: the status page, the figures behind it, and what orchestrators ask."""
    gathering = Gathering(overview, peers)

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        reason = status.not_ready_because
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)

    async def figures(_: Request) -> Response:
        return JSONResponse(status.figures())

    async def page(request: Request) -> Response:
        view = await gathering.view()
        return HTMLResponse(render(view, public=request.url.path == "/public"))

    async def overview_json(_: Request) -> Response:
        return Response(msgspec.json.encode(overview()), media_type="application/json")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/public", page),
            Route("/overview", overview_json),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/status", figures),
            metrics_route(telemetry),
        ]
    )
