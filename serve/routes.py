"""Where each protocol is spoken: every path that its clients call, on one application."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from serve.live import Live
from serve.mounting import App, answer_at
from serve.protocols import Codec, v1, v2
from serve.protocols.invocations import Invocations
from serve.protocols.names import VERSION
from serve.protocols.native import Native
from serve.protocols.torchserve import TorchServe


def speak(app: App, name: str, live: Live, environment: Mapping[str, str] = os.environ) -> None:
    """Mount every protocol for the model `name`. Vertex AI says by AIP_… variables where it calls."""
    answer_at(app, "/predict", Native())
    answer_at(app, "/invocations", Invocations())
    _tensorflow(app, name, live)
    _open_inference(app, name, live)
    _torchserve(app, name)
    _vertex(app, name, live, environment)

    async def ping() -> JSONResponse:
        """SageMaker's, MLflow's and TorchServe's question."""
        return _state(live, {"status": "Healthy"}, {"status": "Unhealthy"})

    async def version() -> dict[str, str]:
        """MLflow's question."""
        return {"version": live.champion.predictor.md5 if live.champion else "none"}

    _get(app, "/ping", ping)
    _get(app, "/version", version)


def _for_any(app: App, before: str, name: str, after: str, codec: Codec) -> None:
    """The path of the model, and that of any other, which the codec refuses in its own words."""
    answer_at(app, f"{before}{name}{after}", codec)
    answer_at(app, before + "{name}" + after, codec)


def _get(app: App, path: str, endpoint: Any) -> None:
    app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)


def _state(live: Live, good: Any, bad: Any) -> JSONResponse:
    return JSONResponse(good) if live.champion is not None else JSONResponse(bad, 503)


def _not_here(name: str) -> JSONResponse:
    return JSONResponse({"error": f"that model or version is not served; there is {name!r}, version {VERSION}"}, 404)


def _not_ready() -> JSONResponse:
    return JSONResponse({"error": "no model is loaded yet; /ready says why"}, 503)


def _tensorflow(app: App, name: str, live: Live) -> None:
    codec = v1.V1(name)
    for inner in ("", "/versions/{version}", "/labels/{label}"):
        _for_any(app, "/v1/models/", name, inner + ":predict", codec)

    async def models() -> dict[str, Any]:
        """KServe's list."""
        return {"models": [name]}

    async def status(model: str, version: str = VERSION) -> JSONResponse:
        """What TF Serving and what KServe answer, in one body."""
        if model != name or version != VERSION:
            return _not_here(name)
        return _state(live, v1.state(name, ready=True), v1.state(name, ready=False))

    async def metadata(model: str, version: str = VERSION) -> JSONResponse:
        """The signature as TF Serving tells it."""
        if model != name or version != VERSION:
            return _not_here(name)
        champion = live.champion
        if champion is None:
            return _not_ready()
        return JSONResponse(v1.metadata(name, champion.predictor.signature))

    _get(app, "/v1/models", models)
    for inner in ("", "/versions/{version}"):
        _get(app, "/v1/models/{model}" + inner, status)
        _get(app, "/v1/models/{model}" + inner + "/metadata", metadata)


def _open_inference(app: App, name: str, live: Live) -> None:
    codec = v2.V2(name)
    for inner in ("", "/versions/{version}"):
        _for_any(app, "/v2/models/", name, inner + "/infer", codec)

    async def server() -> dict[str, Any]:
        """Who answers."""
        return v2.server()

    async def alive() -> dict[str, bool]:
        """Whether the process is alive; clients differ in the key that they look at."""
        return {"live": True, "ready": live.champion is not None}

    async def ready() -> JSONResponse:
        """Whether a model is loaded."""
        return _state(live, {"live": True, "ready": True}, {"live": True, "ready": False})

    async def model_ready(model: str, version: str = VERSION) -> JSONResponse:
        """The same for the one model."""
        if model != name or version != VERSION:
            return _not_here(name)
        return _state(live, {"name": name, "ready": True}, {"name": name, "ready": False})

    async def metadata(model: str, version: str = VERSION) -> JSONResponse:
        """The signature as tensors."""
        if model != name or version != VERSION:
            return _not_here(name)
        champion = live.champion
        if champion is None:
            return _not_ready()
        return JSONResponse(v2.metadata(champion.predictor.signature, name, [VERSION]))

    _get(app, "/v2", server)
    _get(app, "/v2/health/live", alive)
    _get(app, "/v2/health/ready", ready)
    for inner in ("", "/versions/{version}"):
        _get(app, "/v2/models/{model}" + inner, metadata)
        _get(app, "/v2/models/{model}" + inner + "/ready", model_ready)


def _torchserve(app: App, name: str) -> None:
    codec = TorchServe(name)
    for inner in ("", "/{version}"):
        _for_any(app, "/predictions/", name, inner, codec)


def _vertex(app: App, name: str, live: Live, environment: Mapping[str, str]) -> None:
    predict, health = environment.get("AIP_PREDICT_ROUTE"), environment.get("AIP_HEALTH_ROUTE")
    if predict:
        answer_at(app, predict, v1.V1(name))
    if health:

        async def healthy() -> JSONResponse:
            """Vertex AI's question."""
            return _state(live, {"status": "healthy"}, {"status": "no model is loaded"})

        _get(app, health, healthy)
