"""The composition root of the HTTP side: routes, error handlers, documentation."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ingest_api.advice import advice_routes
from ingest_api.auth import Access
from ingest_api.bodies import BodyReader
from ingest_api.health import Readiness, health_routes
from ingest_api.idempotency import UsedKeys
from ingest_api.limits import Limits
from ingest_api.onesignal_routes import onesignal_routes
from ingest_api.openapi import DESCRIPTION, document
from ingest_api.problems import (
    INTERNAL,
    INVALID,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    FieldError,
    ProblemError,
)
from ingest_api.publishing import Publisher, transient_problem
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.receipt_routes import receipt_routes
from ingest_api.reference import reference_routes
from ingest_api.routes import update_routes
from ingest_api.schemas import time_zones
from ingest_api.settings import BodySettings
from shared.errors import Transient


def create_app(
    publisher: Publisher,
    readiness: Readiness,
    *,
    access: Access,
    limits: Limits,
    receipts: ReceiptDesk,
    body: BodySettings,
    used_keys: UsedKeys,
) -> FastAPI:
    """Build the app around what stores its updates; it opens and closes nothing itself."""
    app = FastAPI(
        title="Tidemark",
        version="1.0.0",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            ProblemError: _problem,
            Transient: _transient,
            HTTPException: _http_exception,
            RequestValidationError: _validation_error,
            Exception: _internal,
        },
    )
    bodies = BodyReader(body)
    # Not by include_router, which makes each request a sixth slower.
    app.router.routes.extend(
        update_routes(
            publisher,
            access=access,
            limits=limits,
            receipts=receipts,
            bodies=bodies,
            used_keys=used_keys,
        ).routes
    )
    app.router.routes.extend(
        onesignal_routes(publisher, access=access, limits=limits, bodies=bodies).routes
    )
    app.router.routes.extend(receipt_routes(access, receipts).routes)
    app.include_router(health_routes(readiness))
    app.include_router(advice_routes())
    document(app)
    app.include_router(reference_routes(app.openapi))
    time_zones()  # takes a while to read, which no request should wait for
    return app


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _transient(_: Request, error: Exception) -> Response:
    assert isinstance(error, Transient)
    return transient_problem(error).response()


async def _http_exception(request: Request, error: Exception) -> Response:
    """Translate what Starlette itself answers: no route, or none for the method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{path} does not take {request.method}."
        return ProblemError(METHOD_NOT_ALLOWED, detail, headers=error.headers or {}).response()
    if error.status_code == HTTPStatus.NOT_FOUND:
        return ProblemError(NOT_FOUND, f"There is nothing at {path}.").response()
    raise error


async def _validation_error(_: Request, error: Exception) -> Response:
    """Translate what FastAPI finds wrong with parameters; bodies never get to it."""
    assert isinstance(error, RequestValidationError)
    errors: list[FieldError] = [
        {"parameter": str(each["loc"][-1]), "detail": f"{each['msg']}."} for each in error.errors()
    ]
    return ProblemError(INVALID, errors[0]["detail"], errors).response()


async def _internal(_: Request, __: Exception) -> Response:
    """Tell nothing about a bug of ours; the server logs it."""
    return ProblemError(INTERNAL, "Something went wrong on our side.").response()
