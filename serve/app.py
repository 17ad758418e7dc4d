"""The model API: `uvicorn serve.app:app` answers with exactly the model that is pinned."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.routing import Route

from serve.admin import administer
from serve.batching import Batcher
from serve.describing import Describing
from serve.exchange import Exchange
from serve.feedback import OPENAPI, Feedback
from serve.files import Files
from serve.live import Live
from serve.logs import configure
from serve.monitor import Monitor
from serve.mounting import App
from serve.page import Page
from serve.pins import pointer
from serve.predictions import PredictionLog
from serve.recorder import Recorder
from serve.routes import speak
from serve.settings import Settings, read_settings
from stages.errors import PinwerkError


def create_app(settings: Settings | None = None) -> App:
    """The application. What it serves it looks up when it starts."""
    settings = settings or read_settings()
    live = Live(settings, pointer(settings))
    batcher = Batcher(settings.serve.limits.requests)
    predictions = PredictionLog(settings)
    monitor = Monitor(live, batcher, predictions)
    recorder = Recorder(monitor, predictions)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await live.start()
        recorder.start()
        # what is there now stays: full collections need not walk it, which takes 30 ms out of the slowest requests
        gc.collect()
        gc.freeze()
        yield
        await live.stop()
        files.close()
        batcher.close()
        await recorder.stop()
        feedback.close()

    app = App(title="Pinwerk", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.exchange = Exchange(settings, live, batcher, (recorder,))
    app.quick = {}
    files = Files(app.exchange)
    app.state.live = live
    app.state.monitor = monitor
    administer(app, settings.admin_token, live)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/model", describe, methods=["GET"])
    app.add_api_route("/metrics", recorder.metrics, methods=["GET"])
    feedback = Feedback(app.exchange, settings)
    app.add_api_route("/feedback", feedback.answer, methods=["POST"], openapi_extra=OPENAPI)
    speak(app, settings.serve.name, live)
    Page(app.exchange, key_asked=settings.api_key is not None).mount(app)
    app.router.routes.append(Route("/predict/file", files, methods=["POST"]))
    Describing(app, live, settings).mount()
    return app


async def health() -> dict[str, str]:
    """Whether the process is alive."""
    return {"status": "healthy"}


async def ready(request: Request) -> JSONResponse:
    """Whether a verified model is loaded, and what is wrong where something is."""
    live: Live = request.app.state.live
    is_ready = live.champion is not None
    problems = {**live.problems, **request.app.state.monitor.problems}
    return JSONResponse({"ready": is_ready, "problems": problems}, 200 if is_ready else 503)


async def describe(request: Request) -> JSONResponse:
    """What is served: the md5, what it takes and gives, and where it comes from."""
    champion = request.app.state.live.champion
    if champion is None:
        return JSONResponse({"detail": "no model is loaded yet; /ready says why"}, 503)
    model = champion.predictor.model
    return JSONResponse(
        {"md5": champion.predictor.md5, "signature": _tree(model.signature), "provenance": model.provenance}
    )


def _tree(signature: Any) -> Any:
    from stages.bundle import signature_tree

    return signature_tree(signature)


def __getattr__(name: str) -> Any:
    """`app` is made when it is asked for, so that importing this module reads nothing."""
    if name == "app":
        configure()
        try:
            made = create_app()
        except PinwerkError as error:
            sys.exit(f"error: {error}")
        globals()["app"] = made
        return made
    raise AttributeError(name)
