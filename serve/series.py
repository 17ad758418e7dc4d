"""prometheus_client as this service needs it: one registry an application, histograms that take many values at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from stages.errors import ConfigError

SHARED = "PROMETHEUS_MULTIPROC_DIR"


class Bulk(Histogram):
    """A histogram that takes what was counted elsewhere.

    prometheus_client has no way to do this; its fields `_sum` and `_buckets` are held against its own `observe` in the
    tests, with one process and with several.
    """

    def observe_counts(self, counts: Sequence[int], total: float) -> None:
        """counts: how many values fell into each bucket, the last one unbounded. total: their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Registry:
    """Where the metrics of this process stand, and those of the other workers where there are any.

    Make it before the first metric. Raises ConfigError where PROMETHEUS_MULTIPROC_DIR cannot be used.
    """

    def __init__(self) -> None:
        self.own = CollectorRegistry()
        self.folder = _shared()
        if self.folder is None:
            ProcessCollector(registry=self.own)
            PlatformCollector(registry=self.own)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers as text, and its content type."""
        try:
            encode, kind = choose_encoder(accept)
        except (ValueError, TypeError):  # a version that is none
            encode, kind = choose_encoder("")
        if self.folder is None:
            return encode(self.own), kind
        self.bury()
        asked = CollectorRegistry()
        MultiProcessCollector(asked, str(self.folder))  # type: ignore[no-untyped-call]
        return encode(asked), kind

    def bury(self) -> None:
        """Take what died without a farewell out of the gauges."""
        if self.folder is not None:
            for process in _processes(self.folder, "gauge_live*"):
                if not _alive(process):
                    _leave(process, self.folder)

    def close(self) -> None:
        """This process is no more to be counted."""
        if self.folder is not None:
            _leave(os.getpid(), self.folder)


@cache  # the files of this process are made after it, and must not be removed again
def _shared() -> Path | None:
    """The folder of all workers. The first of them finds it empty: what an earlier service counted is removed."""
    said = os.environ.get(SHARED)
    if said is None:
        return None
    if not said:
        raise ConfigError(f"{SHARED} is empty; unset it, or name a folder of this service")
    folder = Path(said)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{SHARED}={said}: {error.strerror}; name a folder that can be written to") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{SHARED}={said}: cannot be written to; name another folder, or allow this user to")
    _leave(os.getpid(), folder)
    everybody = _processes(folder, "*")
    if not any(_alive(process) for process in everybody if process != os.getpid()):
        for process in everybody:
            for path in folder.glob(f"*_{process}.db"):
                path.unlink(missing_ok=True)
    return folder


def _processes(folder: Path, kind: str) -> set[int]:
    names = (path.stem.rpartition("_")[2] for path in folder.glob(f"{kind}_*.db"))
    return {int(name) for name in names if name.isdigit()}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _leave(process: int, folder: Path) -> None:
    with suppress(FileNotFoundError):  # another worker did it
        mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
