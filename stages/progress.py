"""Say that long work goes on: a line that counts seconds on a terminal, a plain line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TERMINAL, PLAIN = 1.0, 30.0  # seconds between signs of life


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show `what` and the seconds it has taken, until the block ends."""
    terminal = sys.stderr.isatty()
    started, done = time.perf_counter(), threading.Event()

    def beat() -> None:
        while not done.wait(TERMINAL if terminal else PLAIN):
            seconds = time.perf_counter() - started
            end = "\r" if terminal else "\n"
            print(f"{what} … {seconds:,.0f} s", end=end, file=sys.stderr, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if terminal:
            print(" " * (len(what) + 16), end="\r", file=sys.stderr, flush=True)
