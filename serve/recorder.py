"""What was answered, on its way to the metrics and the prediction log.

A request only leaves itself in a queue. Ten times a second the queue is emptied, a slice at a time, so that no request
waits behind more than about half a millisecond of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from starlette.requests import Request
from starlette.responses import Response

from serve.exchange import Answered, Observer
from serve.monitor import Monitor
from serve.predictions import Batch, Piece, PredictionLog

log = logging.getLogger("pinwerk.recorder")

EVERY = 0.1  # seconds
EVENTS, ROWS = 64, 128  # in one slice
MOST_EVENTS, MOST_ROWS = 50_000, 100_000  # that may wait; more than that drops the oldest
BUSY = 8192  # rows; who scores a file pauses then


class Recorder(Observer):
    """The observer of the exchange. Everything but `busy` is called on the event loop."""

    def __init__(self, monitor: Monitor, predictions: PredictionLog) -> None:
        self.monitor, self.predictions = monitor, predictions
        self._waiting: deque[Answered] = deque()
        self._rows = 0
        self._place = 0  # rows of the oldest request that are done
        self._timer: asyncio.Handle | None = None

    def answered(self, event: Answered) -> None:
        waiting = self._waiting
        waiting.append(event)
        self._rows += len(event.rows)
        while (self._rows > MOST_ROWS or len(waiting) > MOST_EVENTS) and len(waiting) > 1:
            self._drop()

    def refused(self, protocol: str, kind: str) -> None:
        self.monitor.refused(protocol, kind)

    def busy(self) -> bool:
        return self._rows > BUSY

    def start(self) -> None:
        """Record from now on."""
        self.predictions.start()
        self.monitor.look()
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._work)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        await self.caught_up()
        body, kind = await self.monitor.page(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind})

    async def stop(self) -> None:
        """Record everything that was answered; returns when it is written."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.sleep(0)  # what threads have told the loop
        while self._waiting:
            await self.caught_up()
        await asyncio.to_thread(self.predictions.close)
        self.monitor.look()
        self.monitor.close()

    async def caught_up(self) -> None:
        """Everything that was answered until now is in the metrics, and on its way to the disk."""
        left = self._rows + len(self._waiting)  # an empty request counts as well
        while self._waiting and left > 0:
            left -= self._slice()
            await asyncio.sleep(0)
        self.predictions.flush()

    def _work(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting:
            self._slice()
        if self._waiting:
            self._timer = loop.call_soon(self._work)
            return
        self.predictions.flush()
        self.monitor.look()
        self._timer = loop.call_later(EVERY, self._work)

    def _slice(self) -> int:
        pieces = self._taken()
        try:
            for batch in _batches(pieces):
                self.monitor.count(batch)
                self.predictions.take(batch)
        except Exception:  # what is told about answers must never end the answering
            log.exception("%d requests could not be recorded", len(pieces))
        return sum(stop - start for _, start, stop in pieces) + len(pieces)

    def _taken(self) -> list[Piece]:
        """At most EVENTS requests and ROWS rows; a request with more comes in several pieces."""
        pieces: list[Piece] = []
        rows, waiting = 0, self._waiting
        while waiting and len(pieces) < EVENTS and rows < ROWS:
            event, start = waiting[0], self._place
            all_of_it = len(event.rows)
            stop = min(all_of_it, start + ROWS - rows)
            if stop == all_of_it:
                waiting.popleft()
                self._place = 0
            else:
                self._place = stop
            pieces.append((event, start, stop))
            rows += stop - start
        self._rows -= rows
        return pieces

    def _drop(self) -> None:
        oldest = self._waiting.popleft()
        lost = len(oldest.rows) - self._place
        self._place = 0
        self._rows -= lost
        self.predictions.lost["overflow"] += lost


def _batches(pieces: list[Piece]) -> list[Batch]:
    """By variant."""
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(id(piece[0].variant), []).append(piece)
    return [Batch.of(group) for group in groups.values()]
