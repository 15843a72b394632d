"""Routes that FastAPI documents, and that cost less than FastAPI's own."""

from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


class DirectRoute(APIRoute):
    """A route that is called without FastAPI's dependency machinery.

    The endpoint gets the request and its path parameters as they came. That saves a third of
    what an empty request costs.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Call the endpoint, and nothing before it."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, **request.path_params)
            return response

        return handle
