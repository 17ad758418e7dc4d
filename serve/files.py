"""`POST /predict/file`: a table as CSV, Arrow IPC stream or Parquet; the same table comes back with its answers.

The answer starts while the upload goes on, but for Parquet, whose index is at its end. An error before the first byte
of the answer is a 4xx; one that is found later breaks the connection in the middle of the chunked body, which every
client sees as an answer that is not whole, and the log says why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

from serve.exchange import Answered, Exchange, Receive, RefusedError, Scope, Send
from serve.formats import FORMATS, PARQUET, sniffed
from serve.formats.arrow import arrow
from serve.live import Variant
from serve.protocols import BadInputError
from serve.runtime import Answers
from serve.transfer import ClientGoneError, Part, Returning, Upload
from stages.bundle import Rows
from stages.errors import ModelError

log = logging.getLogger("pinwerk.files")

AT_ONCE = 2  # files that are scored at the same time
NAME = "file"
PAUSE = 0.01  # seconds that a file waits for those who are told of it
BUSY = RefusedError(503, "overloaded", "other files are being scored; try again later", ((b"retry-after", b"5"),))
GUESSED = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # what clients say who say nothing


@dataclass(frozen=True)
class Job:
    """One file on its way. content_type is None where the first bytes say it."""

    id: str
    variant: Variant
    content_type: str | None
    accept: str
    upload: Upload
    returning: Returning


class Files:
    """The ASGI application at the route."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._at_work = 0
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="file")

    def close(self) -> None:
        """Wait for the files that are being scored."""
        self._threads.shutdown(wait=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        upload = Upload(receive, self._exchange.limits.seconds)
        try:
            self._exchange.authorized(headers)
            job = self._job(headers, upload)
            if self._at_work >= AT_ONCE or self._exchange.batcher.depth >= self._exchange.batcher.most:
                raise BUSY
        except RefusedError as error:
            await self._refuse(send, upload, error)
            return
        self._at_work += 1
        self._exchange.batcher.depth += 1
        try:
            await self._answer(job, send)
        finally:
            self._at_work -= 1
            self._exchange.batcher.depth -= 1

    def _job(self, headers: dict[bytes, bytes], upload: Upload) -> Job:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RefusedError(415, "bad_input", "send the file without content-encoding")
        said = headers.get(b"content-type", b"").decode("latin-1")
        kind = said.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            upload.part = Part(said)
        elif kind not in GUESSED and kind not in FORMATS:
            raise RefusedError(415, "bad_input", f"content-type {kind[:60]}; expected one of {', '.join(FORMATS)}")
        accept = headers.get(b"accept", b"*/*").decode("latin-1").lower()
        spool = self._exchange.limits.spool
        returning = Returning(asyncio.get_running_loop(), spool)
        known = kind if kind in FORMATS else None
        return Job(self._exchange.new_id(), self._exchange.variant(), known, accept, upload, returning)

    async def _answer(self, job: Job, send: Send) -> None:
        """Score in a thread, and send what it gives as it gives it."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._work, job)
        started = False
        with closing(job.returning):
            try:
                while (chunk := await job.returning.next()) is not None:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self._headers(job)})
                        started = True
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await work
                await send({"type": "http.response.body", "body": b""})
            except ClientGoneError:
                log.info("file %s: the client has gone", job.id)
            except Exception as error:
                refused = _refused(error, job.id)
                if not started:
                    await self._refuse(send, job.upload, refused)
                    return
                log.error("file %s: broken off: %s", job.id, refused.message)
                self._tell_refused(refused)
            finally:
                job.upload.abandoned = True  # the thread ends at its next batch
                await asyncio.wait([work])

    def _work(self, job: Job) -> None:
        """In a thread of ours: the whole file, from the upload to what is to be returned."""
        try:
            for chunk in self._chunks(job):
                job.returning.put(chunk)
            job.returning.end(None)
        except BaseException as error:
            job.returning.end(error)

    def _chunks(self, job: Job) -> Iterator[bytes]:
        file = job.upload.file()
        start = file.peek(4)[:4]
        kind = job.content_type or sniffed(start)
        if not _accepted(kind, job.accept):
            raise RefusedError(406, "bad_input", f"the answer comes as {kind}, as the file; accept that")
        job.returning.kind = kind
        tell = self._tell(job)
        score = FORMATS[kind]
        if kind != PARQUET:
            yield from score(file, job.variant.predictor, tell)
            return
        arrow()  # before all of the file is taken
        with tempfile.TemporaryFile() as spooled:
            _spool(file, spooled, self._exchange.limits.spool)
            yield from score(spooled, job.variant.predictor, tell)

    def _tell(self, job: Job) -> Callable[[Rows, Answers], None]:
        """Metrics and log get the rows batch by batch: row i of the batch whose first row is n is `ID.n.i`."""
        first, since = 0, time.perf_counter()

        def tell(rows: Rows, answers: Answers) -> None:
            nonlocal first, since
            if job.upload.abandoned:
                raise ClientGoneError
            while any(observer.busy() for observer in self._exchange.observers):
                time.sleep(PAUSE)
            now = time.perf_counter()
            name = f"{job.id}.{first}"
            event = Answered(name, time.time_ns(), job.variant, NAME, rows, answers, now - since, None)
            job.returning.loop.call_soon_threadsafe(self._observed, event)
            first, since = first + len(rows), now

        return tell

    def _observed(self, event: Answered) -> None:
        for observer in self._exchange.observers:
            observer.answered(event)

    def _tell_refused(self, refused: RefusedError) -> None:
        for observer in self._exchange.observers:
            observer.refused(NAME, refused.kind)

    def _headers(self, job: Job) -> list[tuple[bytes, bytes]]:
        kind = "text/csv; charset=utf-8" if job.returning.kind == "text/csv" else job.returning.kind
        told = [(b"content-type", kind.encode()), (b"x-prediction-id", job.id.encode())]
        return [*told, (b"x-content-type-options", b"nosniff"), *job.variant.headers]

    async def _refuse(self, send: Send, upload: Upload, error: RefusedError) -> None:
        """An error that the client gets to see: who writes on and on does not read, so what comes is let pass by."""
        self._tell_refused(error)
        body = json.dumps({"detail": error.message}, ensure_ascii=False).encode("utf-8", "replace")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *error.headers]
        if not upload.ended:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await upload.drain(self._exchange.limits.bytes)
        await send({"type": "http.response.body", "body": b""})


def _refused(error: Exception, name: str) -> RefusedError:
    """What is told of an error that came in the thread."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, BadInputError):
        return RefusedError(error.status, "bad_input", str(error))
    if isinstance(error, TimeoutError):
        return RefusedError(408, "timeout", "nothing more of the file came")
    if isinstance(error, ModelError):
        log.error("file %s: %s", name, error)
        return RefusedError(500, "failed", "the model cannot answer these rows")
    log.error("file %s failed", name, exc_info=error)
    return RefusedError(500, "failed", "the file could not be scored; the log of the service says why")


def _accepted(kind: str, accept: str) -> bool:
    group = f"{kind.partition('/')[0]}/*"
    return any(part.partition(";")[0].strip() in (kind, group, "*/*", "") for part in accept.split(","))


def _spool(file: BinaryIO, spooled: Any, most: int) -> None:
    size = 0
    while part := file.read(1 << 20):
        size += len(part)
        if size > most:
            raise RefusedError(413, "bad_input", f"a Parquet file of more than {most:,} bytes; send CSV or Arrow")
        spooled.write(part)
    spooled.seek(0)
