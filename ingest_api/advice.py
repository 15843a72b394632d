"""What the type of a problem answers to GET: what it means, and what to do."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from starlette.responses import Response

from ingest_api.openapi import problems
from ingest_api.problems import KINDS, NOT_FOUND, ProblemError


class Advice(BaseModel):
    """A kind of problem."""

    type: str
    title: str
    status: int
    advice: str = Field(description="What to do about it.")


Slug = Annotated[
    str,
    Path(
        description="The last part of a problem's type.",
        json_schema_extra={"enum": sorted(KINDS)},
    ),
]


def advice_routes() -> APIRouter:
    """Return the route that explains problems."""
    router = APIRouter(tags=["Problems"])

    @router.get(
        "/problems/{slug}",
        summary="What does a problem mean?",
        response_model=Advice,
        responses=problems(NOT_FOUND),
    )
    async def explain(slug: Slug) -> Response:
        kind = KINDS.get(slug)
        if kind is None:
            raise ProblemError(NOT_FOUND, "There is no such kind of problem.")
        content = {
            "type": kind.type,
            "title": kind.title,
            "status": kind.status.value,
            "advice": kind.advice,
        }
        return Response(orjson.dumps(content), media_type="application/json")

    return router
