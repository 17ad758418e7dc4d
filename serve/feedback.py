"""`POST /feedback`: what really happened, by prediction id; as late and as often as it becomes known.

    {"id": "…", "label": 1}   or a list of them   →   {"accepted": 1}

All of a request is accepted or nothing. Every label is kept; the last one counts (READ). An id that nobody knows here
is accepted as well: another replica may have predicted it. The answer comes after the system has taken the labels: they
survive the end of the process, however it ends; of a power failure the last seconds may not (there is no fsync).
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serve.exchange import Exchange, RefusedError
from serve.journal import Journal
from serve.settings import Settings
from stages.bundle import Signature

# which label counts for each prediction; join it with predictions.READ by id
READ = """
SELECT id, arg_max(label, time) AS label, max(time) AS told, count(*) AS times
FROM read_json('{folder}/feedback-*.jsonl', format = 'newline_delimited', ignore_errors = true, columns = {{
    id: 'VARCHAR', label: 'VARCHAR', time: 'TIMESTAMP'}})
WHERE id IS NOT NULL GROUP BY id
"""

PREFIX = "feedback"
ID = re.compile(r"[0-9a-f]{22}(\.[0-9]{1,12}){0,2}")
EXPECTED = 'expected {"id": "…", "label": …} or a list of them'
_ONE = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "label": {"anyOf": [{"type": "number"}, {"type": "string"}]}},
    "required": ["id", "label"],
    "additionalProperties": False,
}
_SCHEMA = {"schema": {"anyOf": [_ONE, {"type": "array", "items": _ONE}]}}
OPENAPI = {"requestBody": {"required": True, "content": {"application/json": _SCHEMA}}}

Label = int | float | str


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """One true label."""

    id: str
    label: Label | bool | None


class Line(msgspec.Struct):
    """One line of the file. time: when it was told; no two of a process are the same."""

    id: str
    label: Label
    time: str


_decode = msgspec.json.Decoder(Told | list[Told]).decode
_encode = msgspec.json.Encoder().encode


class Feedback:
    """The route."""

    def __init__(self, exchange: Exchange, settings: Settings) -> None:
        config = settings.serve.log
        self._exchange = exchange
        self._rows = settings.serve.limits.rows
        self._journal = Journal(Path(config.folder), PREFIX, int(config.megabytes * 1e6), config.seconds)
        self._lock = threading.Lock()
        self._last = 0  # µs since 1970

    async def answer(self, request: Request) -> Response:
        """Take labels."""
        try:
            headers = dict(request.scope["headers"])
            self._exchange.authorized(headers)
            told = self._told(await self._exchange.body(headers, request.receive))
            lines = self._lines(told, self._exchange.variant().predictor.signature)
            await asyncio.to_thread(self._write, lines)
        except RefusedError as refused:
            for observer in self._exchange.observers:
                observer.refused(PREFIX, refused.kind)
            more = {name.decode(): value.decode() for name, value in refused.headers}
            return _json({"detail": refused.message}, refused.status, more)
        return _json({"accepted": len(lines)})

    def close(self) -> None:
        """The file is complete."""
        with self._lock:
            self._journal.close()

    def _told(self, body: bytes) -> Sequence[Told]:
        try:
            found = _decode(body)
        except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
            raise RefusedError(422, "bad_input", f"{EXPECTED}: {error}") from None
        except msgspec.DecodeError as error:
            raise RefusedError(400, "bad_input", f"the body is not JSON: {error}") from None
        told = found if isinstance(found, list) else [found]
        if len(told) > self._rows:
            raise RefusedError(413, "bad_input", f"{len(told):,} labels; at most {self._rows:,} at once")
        return told

    def _lines(self, told: Sequence[Told], signature: Signature) -> list[bytes]:
        lines = []
        for place, one in enumerate(told):
            if ID.fullmatch(one.id) is None:
                said = f"label {place}: {one.id[:80]!r} is no id of a prediction; expected its x-prediction-id"
                raise RefusedError(422, "bad_input", f"{said}, with .i for row i of several")
            lines.append(_encode(Line(one.id, checked(one.label, signature, place), self._time())) + b"\n")
        return lines

    def _time(self) -> str:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        second, rest = divmod(self._last, 1_000_000)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:06}Z"

    def _write(self, lines: Sequence[bytes]) -> None:
        with self._lock:
            if self._journal.append(lines) == len(lines):
                return
        said = "the labels could not be stored; send all of them again later"
        raise RefusedError(503, "failed", said, ((b"retry-after", b"60"),))


def checked(label: Label | bool | None, signature: Signature, place: int) -> Label:
    """A label as the signature has it. Raises RefusedError for one that the model cannot mean."""
    classes = signature.classes
    if isinstance(label, bool) or label is None:
        pass
    elif classes is None:
        if not isinstance(label, str) and math.isfinite(label):
            return label
    else:
        for known in classes:
            if known == label:
                return known
    expected = "a finite number" if classes is None else f"one of {', '.join(map(repr, classes[:20]))}"
    raise RefusedError(422, "bad_input", f"label {place}: {str(label)[:80]!r}; expected {expected}")


def _json(tree: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode(tree)
    return Response(body, status, {**(headers or {}), "content-type": "application/json"})
