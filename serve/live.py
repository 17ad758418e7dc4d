"""What is live: which bundle is which variant, looked up again and again, swapped between two requests."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field

from serve.pins import CHAMPION, Pointer
from serve.runtime import Predictor, load
from serve.settings import Settings
from stages.errors import PinwerkError
from stages.store import Store

log = logging.getLogger("pinwerk.live")

FIRST = 5.0  # seconds that a start waits for the first model; after them it goes on without
LONGEST = 30.0  # seconds between two tries of a model that cannot be had


@dataclass(frozen=True)
class Variant:
    """A model under the name that it serves by. since: seconds since 1970."""

    name: str
    predictor: Predictor
    since: float
    pointer: str
    headers: tuple[tuple[bytes, bytes], ...] = field(init=False)

    def __post_init__(self) -> None:
        said = ((b"x-variant", self.name.encode()), (b"x-model-md5", self.predictor.md5.encode()))
        object.__setattr__(self, "headers", said)


@dataclass(frozen=True)
class Failure:
    """A model that could not be had. wait: seconds from its last try to the next, which is at `again` (monotonic)."""

    md5: str
    problem: str
    wait: float
    again: float


class Live:
    """The variants of this process. Each request asks once and keeps what it got.

    A thread of ours follows the pointer. It replaces `variants` and `problems` as wholes, so that the event loop always
    sees one state or the next. problems: what is wrong, by variant, and by "pointer" for the source itself.
    """

    def __init__(self, settings: Settings, pointer: Pointer) -> None:
        self.settings = settings
        self.variants: dict[str, Variant] = {}
        self.problems: dict[str, str] = {}
        self.looked = 0.0  # seconds since 1970 of the last look that ended well
        self._pointer = pointer
        self._store = Store(settings.store, settings.remotes, settings.bundle)
        self._failures: dict[str, Failure] = {}
        self._looking = threading.Lock()
        self._ended, self._begun = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def champion(self) -> Variant | None:
        return self.variants.get(CHAMPION)

    async def start(self) -> None:
        """Look once, and from then on at every interval. What cannot be had is told, not raised."""
        self._thread = threading.Thread(target=self._watch, name="live", daemon=True)  # it may hang at a remote
        self._thread.start()
        await asyncio.to_thread(self._begun.wait, FIRST)

    async def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 1.0)

    async def look(self) -> None:
        """Follow the pointer now, and try again what has failed."""
        await asyncio.to_thread(self._follow, again=True)

    def _watch(self) -> None:
        while True:
            self._follow()
            self._begun.set()
            if self._ended.wait(self.settings.serve.pins.every):
                return

    def _follow(self, again: bool = False) -> None:
        """One look. Whatever goes wrong, what is live stays so."""
        with self._looking:
            error = None
            try:
                problems = self._looked(again)
            except Exception as unexpected:  # the watcher must not end
                error, problems = unexpected, {**self.problems, "pointer": f"unexpected: {unexpected!r}"}
            for name, problem in problems.items():
                if self.problems.get(name) != problem:
                    log.error("%s: %s", name, problem, exc_info=error)
            self.problems = problems

    def _looked(self, again: bool) -> dict[str, str]:
        """What is wrong after a look."""
        problems: dict[str, str] = {}
        for name in self._pointer.variants:
            try:
                md5 = self._pointer.md5(name)
            except PinwerkError as error:
                problems["pointer"] = str(error)
                continue
            problem = self._point(name, md5, again)
            if problem is not None:
                problems[name] = problem
        if "pointer" not in problems:
            self.looked = time.time()
        return problems

    def _point(self, name: str, md5: str | None, again: bool) -> str | None:
        """Let a variant be this bundle, or none; what is wrong where that cannot be."""
        there, failed = self.variants.get(name), self._failures.get(name)
        if md5 is None or (there is not None and there.predictor.md5 == md5):
            self._failures.pop(name, None)
            if md5 is None and there is not None:
                self.variants = {other: variant for other, variant in self.variants.items() if other != name}
                log.info("%s is no more", name)
            return None
        if failed is not None and failed.md5 != md5:
            failed = None
        if failed is not None and not again and time.monotonic() < failed.again:
            return failed.problem
        try:
            made = Variant(name, self._predictor(md5), time.time(), str(self._pointer))
        except Exception as error:  # also what a bundle of somebody else's makes the libraries raise
            problem = str(error) if isinstance(error, PinwerkError) else f"the model {md5} cannot be loaded: {error!r}"
            wait = min(LONGEST, self.settings.serve.pins.every if failed is None else 2 * failed.wait)
            self._failures[name] = Failure(md5, problem, wait, time.monotonic() + wait)
            return problem
        self._failures.pop(name, None)
        self.variants = {**self.variants, name: made}
        log.info("%s is now %s", name, md5)
        self._store.prune({variant.predictor.md5 for variant in self.variants.values()})
        return None

    def _predictor(self, md5: str) -> Predictor:
        """A model, loaded unless another variant has it already. Raises what loading it raises."""
        for variant in self.variants.values():
            if variant.predictor.md5 == md5:
                return variant.predictor
        return load(self._store.bundle(md5), md5)
