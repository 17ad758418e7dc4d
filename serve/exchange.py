"""One request for predictions, from its first byte to its last: the path that has to be fast, in plain ASGI.

FastAPI documents these routes and serves all others. What must always happen (the key, the limits, the record) happens
here, so a request costs no more than what it needs.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import os
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from serve.batching import Batcher, OverloadedError
from serve.live import Live, Variant
from serve.logs import request as request_name
from serve.logs import request_id, trace_of
from serve.protocols import BadInputError, Codec, Decoded, Reply, Request, Served
from serve.runtime import Answers
from serve.settings import Settings
from stages.bundle import Rows
from stages.errors import ModelError

log = logging.getLogger("pinwerk.exchange")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGE = 50_000  # bytes of a body that is decoded in a thread: longer than a millisecond in the loop
RETRY_AFTER = b"1"  # seconds


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered, for the metrics and the log. time: ns since 1970. seconds: from first byte to last.

    id names the prediction; row i of several is `id.i`. client_id is what the client called it, trace the trace id that
    it sent, key what the request was routed by.
    """

    id: str
    time: int
    variant: Variant
    protocol: str
    rows: Rows
    answers: Answers
    seconds: float
    client_id: str | None
    trace: str | None = None
    key: str | None = None


class Observer:
    """Who is told of requests. Called on the event loop: takes microseconds and never raises."""

    def answered(self, event: Answered) -> None:
        """A request was answered."""

    def refused(self, protocol: str, kind: str) -> None:
        """A request was not answered: bad_input, overloaded, not_ready, timeout, unauthorized or failed."""

    def busy(self) -> bool:
        """Whether who has much to tell should wait a moment. Safe in threads."""
        return False


class RefusedError(Exception):
    """A request that gets no prediction."""

    def __init__(self, status: int, kind: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers


class Exchange:
    """Answers requests of any protocol with what is live."""

    def __init__(self, settings: Settings, live: Live, batcher: Batcher, observers: tuple[Observer, ...] = ()) -> None:
        self.limits = settings.serve.limits
        self.name = settings.serve.name
        self.live = live
        self.batcher = batcher
        self.observers = observers
        self._key = settings.api_key.encode() if settings.api_key else None
        prefix = os.urandom(6).hex()
        self._ids = (f"{prefix}{number:010x}" for number in itertools.count())

    async def __call__(
        self, codec: Codec, scope: Scope, receive: Receive, send: Send, parameters: dict[str, str] | None = None
    ) -> None:
        started = time.perf_counter_ns()
        event = trace = None
        try:
            headers = dict(scope["headers"])
            if b"traceparent" in headers and (trace := trace_of(headers[b"traceparent"])) is not None:
                request_name.set(trace)
            self.authorized(headers)
            body = await self.body(headers, receive)
            request = Request(body, headers, scope.get("query_string", b""), parameters or {})
            variant = self.variant()
            decoded, answers, reply, name = await self._answered(codec, request, variant)
            event = (name, variant, decoded, answers)
            extra: tuple[tuple[bytes, bytes], ...] = (*variant.headers, (b"x-prediction-id", name.encode()))
        except RefusedError as refused:
            reply, extra = codec.refuse(refused.status, refused.message), refused.headers
            self._refused(codec, refused.kind)
        except BadInputError as error:
            reply, extra = codec.refuse(error.status, str(error)), ()
            self._refused(codec, "bad_input")
        except _ClientGoneError:
            return
        except Exception:
            trace = request_id()
            log.exception("a request failed")
            reply, extra = codec.refuse(500, "the model could not answer this; the log of the service says why"), ()
            self._refused(codec, "failed")
        if trace is not None:
            extra = (*extra, (b"x-request-id", trace.encode()))
        await _send(send, reply, extra)
        if event is not None:
            name, variant, decoded, answers = event
            seconds = (time.perf_counter_ns() - started) / 1e9
            answered = Answered(
                name, time.time_ns(), variant, codec.name, decoded.rows, answers, seconds, decoded.id, trace
            )
            for observer in self.observers:
                observer.answered(answered)

    async def _answered(self, codec: Codec, request: Request, variant: Variant) -> tuple[Decoded, Answers, Reply, str]:
        signature, large = variant.predictor.signature, len(request.body) > LARGE
        if large:
            decoded = await self._apart(codec.decode, request, signature, self.limits.rows)
        else:
            decoded = codec.decode(request, signature, self.limits.rows)
        try:
            answers = await self.batcher.answers(variant.predictor, decoded.rows)
        except OverloadedError:
            raise _overloaded() from None
        except ModelError as error:
            log.error("%s", error)
            raise RefusedError(500, "failed", "the model cannot answer these rows") from None
        name = self.new_id()
        served = Served(self.name, variant.name, variant.predictor.md5, name)
        if large:
            reply = await self._apart(codec.encode, answers, decoded, signature, served)
        else:
            reply = codec.encode(answers, decoded, signature, served)
        return decoded, answers, reply, name

    async def _apart(self, work: Any, *arguments: Any) -> Any:
        if self.batcher.depth >= self.batcher.most:
            raise _overloaded()
        return await self.batcher.apart(work, *arguments)

    def new_id(self) -> str:
        """A name for a prediction that no other has."""
        return next(self._ids)

    def variant(self) -> Variant:
        """What answers. Raises RefusedError where nothing is loaded."""
        variant = self.live.champion
        if variant is None:
            raise RefusedError(503, "not_ready", "no model is loaded yet; /ready says why", _RETRY)
        return variant

    def authorized(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise RefusedError where a key is asked for and this is not it."""
        if self._key is None:
            return
        given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if not hmac.compare_digest(given, self._key):
            raise RefusedError(401, "unauthorized", "send the key as `x-api-key` or as a bearer token", _BEARER)

    async def body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole of a body, inflated. Raises RefusedError."""
        declared = headers.get(b"content-length")
        if declared is not None:
            if not declared.isdigit():
                raise RefusedError(400, "bad_input", "content-length is no number")
            if int(declared[:20]) > self.limits.bytes:
                raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            body = await self._rest(body, receive)
        elif message["type"] == "http.disconnect":
            raise _ClientGoneError
        if len(body) > self.limits.bytes:
            raise self._too_large()
        encoding = headers.get(b"content-encoding")
        return body if encoding is None else self._inflated(body, encoding)

    async def _rest(self, body: bytes, receive: Receive) -> bytes:
        received = bytearray(body)
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    received += message.get("body", b"")
                    if len(received) > self.limits.bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(received)
        except TimeoutError:
            said = f"the body did not arrive within {self.limits.seconds:g} s"
            raise RefusedError(408, "timeout", said, ((b"connection", b"close"),)) from None

    def _inflated(self, body: bytes, encoding: bytes) -> bytes:
        windows = {b"gzip": 31, b"deflate": 47}
        if encoding == b"identity":
            return body
        if encoding not in windows:
            raise RefusedError(415, "bad_input", "content-encoding may be gzip or deflate")
        inflater = zlib.decompressobj(windows[encoding])
        try:
            whole = inflater.decompress(body, self.limits.bytes + 1)
        except zlib.error:
            raise RefusedError(400, "bad_input", f"the body is not {encoding.decode()}") from None
        if len(whole) > self.limits.bytes:
            raise self._too_large()
        if not inflater.eof:
            raise RefusedError(400, "bad_input", f"the body ends in the middle of its {encoding.decode()} stream")
        return whole

    def _too_large(self) -> RefusedError:
        said = f"the body is over {self.limits.bytes:,} bytes; send fewer rows at once"
        return RefusedError(413, "bad_input", said, ((b"connection", b"close"),))

    def _refused(self, codec: Codec, kind: str) -> None:
        for observer in self.observers:
            observer.refused(codec.name, kind)


class _ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


_RETRY = ((b"retry-after", RETRY_AFTER),)
_BEARER = ((b"www-authenticate", b"Bearer"),)


def _overloaded() -> RefusedError:
    return RefusedError(503, "overloaded", "too many requests are waiting; try again in a second", _RETRY)


async def _send(send: Send, reply: Reply, extra: tuple[tuple[bytes, bytes], ...]) -> None:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
        *extra,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
