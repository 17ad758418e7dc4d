"""Concurrent requests answered together: what is read from all sockets in one turn of the loop is one inference.

Nobody waits for company: a request that is alone is answered at once. A model without a compiled graph takes
milliseconds a call; it answers in a thread, and what arrives meanwhile is its next batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from serve.runtime import Answers, Predictor, split
from stages.bundle import Rows

TOGETHER = 256  # rows in one inference
ALONE = 64  # a request with more rows is answered in a thread by itself


class OverloadedError(Exception):
    """More requests are at work or waiting than is allowed."""


@dataclass(slots=True)
class Line:
    """Who waits for one model."""

    waiting: deque[tuple[Rows, asyncio.Future[Answers]]] = field(default_factory=deque)
    scheduled: bool = False


class Batcher:
    """Answers for the requests of one event loop.

    most: requests that may be at work or waiting; `depth` says how many are. Not safe for threads.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.depth = 0
        self.sizes: deque[int] = deque(maxlen=10_000)  # rows of the last batches, for the metrics
        self._lines: dict[int, Line] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="answer")

    async def answers(self, predictor: Predictor, rows: Rows) -> Answers:
        """The answers of a model. Raises OverloadedError at once where too many wait, ModelError where it fails."""
        if self.depth >= self.most:
            raise OverloadedError
        self.depth += 1
        try:
            if len(rows) > ALONE:
                self.sizes.append(len(rows))
                answers: Answers = await self.apart(predictor.answers, rows)
                return answers
            future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
            self._join(predictor, rows, future)
            return await future
        finally:
            self.depth -= 1

    async def apart(self, work: Any, *arguments: Any) -> Any:
        """Run what takes long in a thread of ours."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def close(self) -> None:
        """Wait for the threads to end what they have begun."""
        self._threads.shutdown(wait=True)

    def _join(self, predictor: Predictor, rows: Rows, future: asyncio.Future[Answers]) -> None:
        line = self._lines.get(id(predictor))
        if line is None:
            line = self._lines[id(predictor)] = Line()
        line.waiting.append((rows, future))
        if not line.scheduled:
            line.scheduled = True
            # behind all that this turn of the loop has read
            asyncio.get_running_loop().call_soon(self._answer, predictor, line)

    def _answer(self, predictor: Predictor, line: Line) -> None:
        taken = _taken(line)
        if not taken:
            self._done(predictor, line)
            return
        self.sizes.append(sum(len(rows) for rows, _ in taken))
        if not predictor.quick:
            asyncio.get_running_loop().create_task(self._answer_apart(predictor, line, taken))
            return
        try:
            _hand_out(predictor.answers(Rows.joined([rows for rows, _ in taken])), taken)
        except Exception:
            _one_by_one(predictor, taken)
        self._done(predictor, line)

    async def _answer_apart(
        self, predictor: Predictor, line: Line, taken: list[tuple[Rows, asyncio.Future[Answers]]]
    ) -> None:
        try:
            _hand_out(await self.apart(predictor.answers, Rows.joined([rows for rows, _ in taken])), taken)
        except Exception:
            for rows, future in taken:
                try:
                    answers = await self.apart(predictor.answers, rows)
                except Exception as error:
                    _fail(future, error)
                else:
                    _hand_out(answers, [(rows, future)])
        self._done(predictor, line)

    def _done(self, predictor: Predictor, line: Line) -> None:
        if line.waiting:
            asyncio.get_running_loop().call_soon(self._answer, predictor, line)
        else:
            line.scheduled = False
            self._lines.pop(id(predictor), None)


def _taken(line: Line) -> list[tuple[Rows, asyncio.Future[Answers]]]:
    """As many as make one batch, in their order; who has gone meanwhile is left out."""
    taken: list[tuple[Rows, asyncio.Future[Answers]]] = []
    count = 0
    while line.waiting and (not taken or count + len(line.waiting[0][0]) <= TOGETHER):
        rows, future = line.waiting.popleft()
        if not future.done():
            taken.append((rows, future))
            count += len(rows)
    return taken


def _hand_out(answers: Answers, taken: list[tuple[Rows, asyncio.Future[Answers]]]) -> None:
    parts = [answers] if len(taken) == 1 else split(answers, [len(rows) for rows, _ in taken])
    for (_, future), part in zip(taken, parts, strict=True):
        if not future.done():
            future.set_result(part)


def _one_by_one(predictor: Predictor, taken: list[tuple[Rows, asyncio.Future[Answers]]]) -> None:
    """One request that the model fails on must not fail those that came with it."""
    for rows, future in taken:
        try:
            answers = predictor.answers(rows)
        except Exception as error:
            _fail(future, error)
        else:
            _hand_out(answers, [(rows, future)])


def _fail(future: asyncio.Future[Answers], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
