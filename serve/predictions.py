"""The prediction log: every prediction one JSON line, for drift, A/B tests and retraining.

Read it at any time, while it is written too (see READ): `duckdb -c "…"` or duckdb.sql in Python.

    id          the prediction, `ID`, or `ID.i` for row i of several; the client has it as x-prediction-id
    time        when it was answered, UTC
    variant, md5, protocol
    client_id   what the client called it, as far as its protocol has a name
    trace       the trace id of the client's traceparent
    key         what the request was routed by
    features    by name; null where missing; hashed or left out as the config says
    output      {prediction, probability, probabilities: {class: p}}; of a regression {prediction}
    latency_ms  of the whole request

Who answers only encodes; a thread writes. What is not written after a kill -9 is at most the last second.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from serve.exchange import Answered
from serve.journal import PREDICTIONS, Journal
from serve.live import Variant
from serve.runtime import Label
from serve.settings import Settings
from stages.bundle import Rows, Signature
from stages.errors import ConfigError
from stages.serving import Log

log = logging.getLogger("pinwerk.predictions")

# a line longer than a page can be seen in the middle of its writing: then it counts as an error that is ignored
READ = """
SELECT * FROM read_json('{folder}/predictions-*.jsonl', format = 'newline_delimited', ignore_errors = true, columns = {{
    id: 'VARCHAR', time: 'TIMESTAMP', variant: 'VARCHAR', md5: 'VARCHAR', protocol: 'VARCHAR', client_id: 'VARCHAR',
    trace: 'VARCHAR', key: 'VARCHAR', features: 'JSON', output: 'JSON', latency_ms: 'DOUBLE'}})
WHERE id IS NOT NULL
"""

PENDING = 32_000_000  # bytes that may wait for the disk; more than that drops the oldest
EVERY = 0.5  # seconds after which the thread looks up by itself
SHORTEST_KEY = 16

Piece = tuple[Answered, int, int]  # the rows [from, to) of a request


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that one variant answered, or parts of large ones; rows: of all of them, under each other."""

    variant: Variant
    pieces: Sequence[Piece]
    rows: Rows

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Batch:
        """Raises IndexError for none."""
        parts = [
            event.rows if stop - start == len(event.rows) else event.rows[start:stop] for event, start, stop in pieces
        ]
        return cls(pieces[0][0].variant, pieces, Rows.joined(parts))


class Classified(msgspec.Struct, gc=False):
    """The output of a classifier."""

    prediction: Label
    probability: float
    probabilities: Any


class Estimated(msgspec.Struct, gc=False):
    """The output of a regression."""

    prediction: Label


class Record(msgspec.Struct, gc=False):
    """One line."""

    id: str
    time: str
    variant: str
    md5: str
    protocol: str
    client_id: str | None
    trace: str | None
    key: str | None
    features: Any
    output: Classified | Estimated
    latency_ms: float


@dataclass(frozen=True)
class Form:
    """How the predictions of one model are written.

    kept: the places, in the signature's numeric columns and then its text, of what is written; hashed: those of them
    that are hashed, by name. features, scores: an object of values in that order. said: what is wrong with the config
    for this model; then no features are written.
    """

    classes: tuple[int | str, ...] | None
    text: bool
    kept: tuple[int, ...] | None
    hashed: tuple[tuple[int, str], ...]
    features: Callable[..., Any]
    scores: Callable[..., Any]
    said: str | None

    @classmethod
    def of(cls, signature: Signature, config: Log) -> Form:
        names = (*signature.numeric, *signature.text)
        kept = tuple(place for place, name in enumerate(names) if name not in config.omit)
        hashed = tuple((place, name) for place, name in enumerate(names) if name in config.hash)
        return cls(
            classes=signature.classes,
            text=bool(signature.text),
            kept=kept if config.omit else None,
            hashed=hashed,
            features=named([names[place] for place in kept]),
            scores=named([str(name) for name in signature.classes or ()]),
            said=_wrong(names, config),
        )


def named(names: Sequence[str]) -> Callable[..., Any]:
    """What makes JSON objects of values in the order of their names; three times as fast as a dict where it can."""
    fields = [f"value_{place}" for place in range(len(names))]
    try:
        return msgspec.defstruct("Named", fields, rename=dict(zip(fields, names, strict=True)), gc=False)
    except ValueError:  # a name that JSON has to escape
        return lambda *values: dict(zip(names, values, strict=True))


def _wrong(names: Sequence[str], config: Log) -> str | None:
    wrong = []
    for place, asked in (("hash", config.hash), ("omit", config.omit)):
        for name in asked:
            if name not in names:
                near = get_close_matches(name, names, 1)
                meant = f" (did you mean {near[0]!r}?)" if near else ""
                wrong.append(f"serve.log.{place}: {name!r} is no feature of this model{meant}")
    return f"{'; '.join(wrong)}; its features are not logged, correct conf/serve" if wrong else None


class PredictionLog:
    """Takes what was answered, on the event loop; `close` returns when all of it is written.

    lost: records that nobody will read, by reason: `overflow` (the disk is too slow), `disk` (it takes nothing),
    `unwritable`. written: records that the system has taken.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where columns are to be hashed and there is no key, or a short one."""
        config = settings.serve.log
        self.config = config
        self.lost = {"overflow": 0, "disk": 0, "unwritable": 0}
        self.written = 0
        size, keep = int(config.megabytes * 1e6), int(config.keep_megabytes * 1e6)
        self.journal = Journal(Path(config.folder), PREDICTIONS, size, config.seconds, keep)
        self._key = _key(settings)
        self._forms: dict[str, Form] = {}
        self._share = int(config.sample * 2**32)
        self._second, self._stamp = 0, ""
        self._encode = msgspec.json.Encoder().encode
        self._waiting: deque[list[bytes]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to write."""
        if self.config.enabled:
            self._thread = threading.Thread(target=self._write, name="predictions", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what was taken, and end."""
        if self._thread is not None:
            self._closing = True
            self._wake.set()
            self._thread.join()
            self._thread = None

    def form(self, md5: str, signature: Signature) -> Form:
        """How the predictions of a model are written; told in the log where the config does not fit it."""
        form = self._forms.get(md5)
        if form is None:
            form = Form.of(signature, self.config)
            if form.said is not None:
                log.error("%s: %s", md5, form.said)
            if len(self._forms) > 32:
                self._forms.clear()
            self._forms[md5] = form
        return form

    def take(self, batch: Batch) -> None:
        """Write these down, soon. About 4 µs a row of 30 numbers."""
        if not self.config.enabled:
            return
        lines: list[bytes] = []
        self._encode_all(batch, lines)
        if lines:
            self._hand_over(lines)

    def flush(self) -> None:
        """Let what was taken be written now."""
        self._wake.set()

    def _encode_all(self, batch: Batch, lines: list[bytes]) -> None:
        variant, md5 = batch.variant.name, batch.variant.predictor.md5
        form = self.form(md5, batch.variant.predictor.signature)
        classes, features, scores, encode = form.classes, form.features, form.scores, self._encode
        rows = iter(self._values(batch.rows, form))
        output: Classified | Estimated
        for event, start, stop in batch.pieces:
            wanted, many = self._sampled(event.id), len(event.rows) > 1
            when, took = self._time(event.time), int(event.seconds * 1e6) / 1e3
            client = event.client_id and event.client_id[:256]
            for place, values in zip(range(start, stop), rows):  # noqa: B905
                if not wanted:
                    continue
                label = event.answers.labels[place]
                if classes is None:
                    output = Estimated(label)
                else:
                    given = event.answers.scores[place]
                    output = Classified(label, given[classes.index(label)], scores(*given))
                name = f"{event.id}.{place}" if many else event.id
                told = None if values is None else features(*values)
                record = Record(
                    name, when, variant, md5, event.protocol, client, event.trace, event.key, told, output, took
                )
                try:
                    lines.append(encode(record) + b"\n")
                except ValueError:  # half of a surrogate pair
                    self.lost["unwritable"] += 1

    def _sampled(self, name: str) -> bool:
        """The same for all rows of a request, and whenever it is asked."""
        return bool(self._share >> 32) or zlib.crc32(name.partition(".")[0].encode()) < self._share

    def _values(self, rows: Rows, form: Form) -> Sequence[list[Any] | None]:
        """The features of each row, in the form's order."""
        if form.said is not None:
            return [None] * len(rows)
        made: list[list[Any]] = rows.numeric.tolist()
        if form.text:
            for values, words in zip(made, rows.text.tolist(), strict=True):
                values += [word or None for word in words]
        for place, name in form.hashed:
            for values in made:
                values[place] = self._hashed(name, values[place])
        if form.kept is None:
            return made
        return [[values[place] for place in form.kept] for values in made]

    def _hashed(self, column: str, value: float | str | None) -> str | None:
        """Equal values of a column give equal words; without the key nobody tells which."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        message = f"{column}\0{value}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, "sha256")[:16].hex()

    def _time(self, nanoseconds: int) -> str:
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{rest // 1000:06}Z"

    def _hand_over(self, lines: list[bytes]) -> None:
        with self._lock:
            self._waiting.append(lines)
            self._bytes += sum(map(len, lines))
            while self._bytes > PENDING and len(self._waiting) > 1:
                oldest = self._waiting.popleft()
                self._bytes -= sum(map(len, oldest))
                self.lost["overflow"] += len(oldest)

    def _write(self) -> None:
        """In the thread."""
        while True:
            self._wake.wait(EVERY)
            self._wake.clear()
            closing = self._closing
            with self._lock:
                lines = [line for part in self._waiting for line in part]
                self._waiting.clear()
                self._bytes = 0
            if lines:
                done = self.journal.append(lines)
                self.written += done
                self.lost["disk"] += len(lines) - done
            else:
                self.journal.rotate()
            if closing:
                self.journal.close()
                return


def _key(settings: Settings) -> bytes:
    config = settings.serve.log
    key = (settings.log_key or "").encode()
    if config.enabled and config.hash and len(key) < SHORTEST_KEY:
        said = "is not set" if not key else f"has {len(key)} bytes"
        raise ConfigError(
            f"serve.log.hash names {', '.join(config.hash)} and PINWERK_LOG_KEY {said}; expected a secret of at least "
            f"{SHORTEST_KEY} bytes, such as `openssl rand -hex 32` gives, and the same for all workers"
        )
    return key
