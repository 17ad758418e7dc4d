"""Append-only JSON lines on a disk that may be full, read by others while they are written.

A file has one writer, which holds a lock on it for as long as it lives. A reader sees what is written page by page, and
so does a disk that fills up or a process that is killed in the middle: no line that fits into a page lies across the
border of two (it is moved on with spaces), so whatever is seen ends with a whole line.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

log = logging.getLogger("pinwerk.journal")

PAGE = 4096
AT_ONCE = 1 << 20  # bytes in one write
PREDICTIONS = "predictions"  # files that may be dropped; what people told us (feedback) never is
FULL = (errno.ENOSPC, errno.EDQUOT)


class Journal:
    """PREFIX-TIME-PROCESS-NUMBER.jsonl in a folder, a new one when one is too large or too old. Not safe for threads.

    size, keep: bytes, of one file and of all predictions together (None: no limit). seconds: the age of a file.
    dropped: how many files went, by reason: `cap` for `keep`, `disk` to make room on a full disk.
    """

    def __init__(self, folder: Path, prefix: str, size: int, seconds: float, keep: int | None = None) -> None:
        self.folder, self.prefix, self.size, self.seconds, self.keep = folder, prefix, size, seconds, keep
        self.dropped = {"cap": 0, "disk": 0}
        self.problem: str | None = None
        self._file: int | None = None
        self._written = 0
        self._opened = 0.0
        self._numbers = count()  # never twice: the name of a dropped file, taken again, would look like the oldest

    def append(self, lines: Sequence[bytes]) -> int:
        """Write lines, each with its line feed. How many of them the system has taken: fewer where there is no room."""
        done = 0
        try:
            while done < len(lines):
                self._open()
                taken, total = 0, 0
                most = min(AT_ONCE, self.size - self._written)
                for line in lines[done:]:
                    taken, total = taken + 1, total + len(line)
                    if total >= most:
                        break
                done += self._write(lines[done : done + taken])
        except OSError as error:
            self._tell(f"{self.folder}: {os.strerror(error.errno or 0)}")
            if isinstance(error, _StoppedError):
                done += error.whole
        else:
            self._tell(None)
        return done

    def rotate(self) -> None:
        """Close the file where it is too old, too large, or gone from the folder."""
        if self._file is None:
            return
        old = time.monotonic() - self._opened >= self.seconds
        if old or self._written >= self.size or os.fstat(self._file).st_nlink == 0:
            self.close()

    def close(self) -> None:
        """The file is complete."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self.rotate()
        if self._file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        mend(self.folder)
        self._keep_to_cap()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for number in self._numbers:
            path = self.folder / f"{self.prefix}-{stamp}-{os.getpid()}-{number:04}.jsonl"
            try:
                file = self._made(path)
            except FileExistsError:
                continue
            break
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        self._file, self._written, self._opened = file, 0, time.monotonic()

    def _made(self, path: Path) -> int:
        while True:
            try:
                return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            except OSError as error:
                if error.errno not in FULL or not self._drop_oldest("disk"):
                    raise

    def _write(self, lines: Sequence[bytes]) -> int:
        """Write all, or raise _StoppedError."""
        assert self._file is not None
        data, ends = laid_out(lines, self._written)
        there = 0
        while there < len(data):
            try:
                there += os.write(self._file, data[there:] if there else data)
            except OSError as error:
                if error.errno in FULL and self._drop_oldest("disk"):
                    continue
                whole = bisect_right(ends, there)
                self._written += ends[whole - 1] if whole else 0
                os.ftruncate(self._file, self._written)
                raise _StoppedError(error.errno, whole) from error
        self._written += len(data)
        return len(lines)

    def _keep_to_cap(self) -> None:
        """Let there be room for one more file."""
        if self.keep is None:
            return
        while sum(_size(path) for path in written(self.folder, PREDICTIONS)) > self.keep - self.size:
            if not self._drop_oldest("cap"):
                return

    def _drop_oldest(self, why: str) -> bool:
        """Remove the oldest file of predictions that no process writes to. Whether there was one."""
        for path in written(self.folder, PREDICTIONS):
            with _unwritten(path) as file:
                if file is None:
                    continue
                path.unlink(missing_ok=True)
            self.dropped[why] += 1
            if why == "disk":
                log.warning("%s: dropped, since the disk is full", path)
            return True
        return False

    def _tell(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is None:
                log.info("%s: %s are written again", self.folder, self.prefix)
            else:
                log.error("%s; %s are lost until there is room and leave to write", problem, self.prefix)
        self.problem = problem


class _StoppedError(OSError):
    """The disk took only the first `whole` lines."""

    def __init__(self, number: int | None, whole: int) -> None:
        super().__init__(number, os.strerror(number or 0))
        self.whole = whole


def laid_out(lines: Sequence[bytes], position: int) -> tuple[bytes, list[int]]:
    """The bytes to write at a position of a file, and where in them each line ends."""
    parts, ends, start = [], [], position
    for line in lines:
        room = PAGE - position % PAGE
        if room < len(line) <= PAGE:
            parts.append(b" " * room)
            position += room
        parts.append(line)
        position += len(line)
        ends.append(position - start)
    return b"".join(parts), ends


def written(folder: Path, prefix: str) -> list[Path]:
    """The files of a kind, the oldest first."""
    return sorted(folder.glob(f"{prefix}-*.jsonl"))


def mend(folder: Path) -> None:
    """Cut off what a writer that was killed left of a line longer than a page."""
    for path in written(folder, "*"):
        with suppress(OSError), _unwritten(path) as file:
            if file is None:
                continue
            size = end = os.fstat(file).st_size
            while end:
                start = max(0, end - (1 << 16))
                block = os.pread(file, end - start, start)
                if end == size and block.endswith(b"\n"):
                    break
                place = block.rfind(b"\n")
                if place >= 0 or start == 0:
                    os.ftruncate(file, start + place + 1)
                    break
                end = start


@contextmanager
def _unwritten(path: Path) -> Iterator[int | None]:
    """The file, locked; None where its writer lives or it is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield None
    else:
        yield file
    finally:
        os.close(file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
