"""The application class, and how a codec comes to answer at a path."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serve.exchange import Exchange, Receive, Scope, Send
from serve.protocols import Codec


class App(FastAPI):
    """FastAPI, with the requests for predictions on a path of their own past its routing and middleware."""

    exchange: Exchange
    quick: dict[str, Codec]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            codec = self.quick.get(scope["path"])
            if codec is not None:
                await self.exchange(codec, scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Exchanged(Response):
    """The answer of the exchange to a request that came through FastAPI's routing, with the parameters of its path."""

    def __init__(self, exchange: Exchange, codec: Codec, parameters: dict[str, str]) -> None:
        super().__init__()
        self.exchange, self.codec, self.parameters = exchange, codec, parameters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.exchange(self.codec, scope, receive, send, self.parameters)


def answer_at(app: App, path: str, codec: Codec) -> None:
    """Answer POST requests to a path by a codec."""

    async def endpoint(request: Request) -> Response:
        return Exchanged(app.exchange, codec, {name: str(value) for name, value in request.path_params.items()})

    if "{" not in path:
        app.quick[path] = codec
    app.add_api_route(path, endpoint, methods=["POST"], name=codec.name, include_in_schema="{" not in path)
