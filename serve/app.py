"""The model API: `uvicorn serve.app:app` answers with exactly the model that dvc.lock pins."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serve.pins import pinned
from serve.runtime import BadInputError, Predictor, load

ROWS, BYTES = 10_000, 16 * 1024 * 1024  # more in one request is refused: send several


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the pinned model before the first request is taken; a model that cannot be verified is not served."""
    app.state.predictor = load(pinned())
    yield


def create_app() -> FastAPI:
    """The application; it reads dvc.lock and the bundle when it starts."""
    app = FastAPI(title="Pinwerk", lifespan=lifespan)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/model", describe, methods=["GET"])
    app.add_api_route("/predict", predict, methods=["POST"], openapi_extra=_BODY)
    return app


async def health() -> dict[str, str]:
    """Whether the process is alive."""
    return {"status": "healthy"}


async def describe(request: Request) -> dict[str, Any]:
    """What is served: the md5, what it takes and gives, and where it comes from."""
    predictor: Predictor = request.app.state.predictor
    return {
        "md5": predictor.md5,
        "signature": predictor.model.signature,
        "provenance": predictor.model.provenance,
    }


async def predict(request: Request) -> JSONResponse:
    """`{"features": […]}` or `{"features": {name: value}}` for one row, a list of records for many."""
    predictor: Predictor = request.app.state.predictor
    try:
        rows, single = _rows(await _body(request))
        answers = predictor.answer(rows)
    except BadInputError as error:
        return JSONResponse({"detail": str(error)}, status_code=422)
    headers = {"x-model-md5": predictor.md5}
    return JSONResponse(answers[0] if single else answers, headers=headers)


async def _body(request: Request) -> Any:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > BYTES:
            raise BadInputError(f"the body is over {BYTES:,} bytes; send fewer rows at once")
    try:
        return json.loads(received, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the body is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; a missing value is null")


def _rows(body: Any) -> tuple[list[Any], bool]:
    """The rows of a body, and whether it is a single one."""
    if isinstance(body, dict) and isinstance(body.get("features"), (list, dict)):
        return [body["features"]], True
    if isinstance(body, list) and body and all(isinstance(row, dict) for row in body):
        if len(body) > ROWS:
            raise BadInputError(f"{len(body):,} rows; at most {ROWS:,} in one request")
        return body, False
    raise BadInputError('expected {"features": […]}, {"features": {name: value, …}} or a list of records')


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {}, "example": {"features": {"name": "value"}}}},
    }
}

app = create_app()
