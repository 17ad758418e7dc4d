"""Bodies between the event loop and a thread: an upload as a file, and an answer that waits for its client on disk."""

from __future__ import annotations

import asyncio
import io
import tempfile
import threading
from collections import deque
from email.message import Message
from typing import Any

from serve.protocols import BadInputError

HELD = 1_000_000  # bytes of an answer in memory; what the client does not take beyond it is kept in a file
PIECE = 256_000  # bytes read from that file at once
SNIFFED = 4  # bytes that a reader needs to see what a file is


class ClientGoneError(Exception):
    """The client closed the connection."""


class Upload:
    """The body of a request, received by the loop when a thread reads. seconds: the longest wait for its next bytes."""

    def __init__(self, receive: Any, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self.part: Part | None = None
        self.ended = False
        self.abandoned = False
        self._watching: asyncio.Task[None] | None = None

    def file(self) -> io.BufferedReader:
        """To be read in a thread. Raises ClientGoneError, TimeoutError and, for a bad multipart body, BadInputError."""
        return io.BufferedReader(_Raw(self), 1 << 16)

    def read(self) -> bytes:
        """The next bytes of the file; none at its end."""
        body = b""
        while not self.ended and len(body) < SNIFFED:
            received = asyncio.run_coroutine_threadsafe(self.received(), self._loop).result()
            body += self.part.fed(received, self.ended) if self.part else received
        return body

    async def received(self) -> bytes:
        """The next bytes of the body. Raises ClientGoneError or TimeoutError."""
        async with asyncio.timeout(self._seconds):
            message = await self._receive()
        if message["type"] == "http.disconnect":
            self.abandoned = True
            raise ClientGoneError
        self.ended = not message.get("more_body", False)
        if self.ended:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return bytes(message.get("body", b""))

    async def _watch(self) -> None:
        """After the last byte there comes but one message: that the client is gone, or has its answer."""
        await self._receive()
        self.abandoned = True

    async def drain(self, most: int) -> None:
        """Let the rest of the body pass by, as long as it takes no longer than a wait and is not endless."""
        try:
            async with asyncio.timeout(self._seconds):
                while not self.ended and most > 0:
                    most -= len(await self.received())
        except (ClientGoneError, TimeoutError):
            pass


class _Raw(io.RawIOBase):
    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(self._upload.read())
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class Part:
    """The first part of a multipart/form-data body that is a file (`curl -F file=@x.csv`)."""

    HEADERS = 16_000  # bytes

    def __init__(self, content_type: str) -> None:
        message = Message()
        message["content-type"] = content_type
        boundary = message.get_param("boundary")
        self._fence = b"\r\n--" + str(boundary or "").encode("latin-1", "replace")
        self._held = b"\r\n"  # so that the first fence looks like the others
        self._inside = self._over = False

    def fed(self, received: bytes, ended: bool) -> bytes:
        """What of the file is in the bytes received next. Raises BadInputError where there is none."""
        if self._over:
            return b""
        self._held += received
        if not self._inside:
            self._enter()
        if not self._inside:
            if ended or len(self._held) > self.HEADERS:
                raise BadInputError("the multipart body has no file; send it as `-F file=@NAME`", 400)
            return b""
        end = self._held.find(self._fence)
        if end >= 0:
            self._over = True
            body, self._held = self._held[:end], b""
            return body
        if ended:
            raise BadInputError("the multipart body ends in the middle of the file", 400)
        keep = len(self._fence) - 1  # a fence may come in two pieces
        body, self._held = self._held[:-keep], self._held[-keep:]
        return body

    def _enter(self) -> None:
        """Step over parts that are no file, such as other fields of a form."""
        while (start := self._held.find(self._fence)) >= 0:
            head, found, rest = self._held[start + len(self._fence) :].partition(b"\r\n\r\n")
            if not found:
                return
            self._held = rest
            if b"filename" in head.lower():
                self._inside = True
                return
            self._held = b"\r\n" + rest if rest.startswith(b"--") else rest


class Returning:
    """An answer's chunks, put by a thread and taken by the loop in their order.

    Putting never waits for the client: many a client reads nothing until it has sent all, and would wait for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self.loop = loop
        self.kind = ""
        self._most = most
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._file: Any = None
        self._read = self._written = 0
        self._ended = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._news = asyncio.Event()

    def put(self, chunk: bytes) -> None:
        """Raises BadInputError where too much waits for the client."""
        with self._lock:
            if self._written == self._read and self._held < HELD:
                self._chunks.append(chunk)
                self._held += len(chunk)
            else:
                self._keep(chunk)
        self.loop.call_soon_threadsafe(self._news.set)

    def end(self, error: BaseException | None) -> None:
        """No chunk follows. The error is raised to whoever takes them, once all before it are taken."""
        self._error, self._ended = error, True
        self.loop.call_soon_threadsafe(self._news.set)

    async def next(self) -> bytes | None:
        """The next chunk, None behind the last."""
        while True:
            self._news.clear()
            ended = self._ended
            chunk = self._taken()
            if chunk is not None:
                return chunk
            if ended:
                if self._error is not None:
                    raise self._error
                return None
            await self._news.wait()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _keep(self, chunk: bytes) -> None:
        if self._written - self._read + len(chunk) > self._most:
            raise BadInputError(f"more than {self._most:,} bytes of the answer wait to be read", 413)
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        self._file.seek(self._written)
        self._file.write(chunk)
        self._written += len(chunk)

    def _taken(self) -> bytes | None:
        with self._lock:
            if self._chunks:
                chunk = self._chunks.popleft()
                self._held -= len(chunk)
                return chunk
            if self._read == self._written:
                return None
            self._file.seek(self._read)
            piece: bytes = self._file.read(PIECE)
            self._read += len(piece)
            if self._read == self._written:
                self._file.truncate(0)
                self._read = self._written = 0
            return piece
