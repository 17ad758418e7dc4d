"""What can be had at all: the body is parsed and an answer of the same size is sent, and there is no model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

ANSWER = b'{"prediction":0,"probability":0.97}'
Message = MutableMapping[str, Any]

app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    msgspec.json.decode(await request.body())
    return Response(ANSWER, media_type="application/json")


async def bare(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """No framework: one read, one parse, two sends."""
    if scope["type"] != "http":
        return
    message = await receive()
    msgspec.json.decode(message["body"])
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})
