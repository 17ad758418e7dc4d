"""What the service says on stderr: one JSON object a line, plain where somebody looks at a terminal.

PINWERK_LOG_FORMAT is `json` or `plain` and overrides the guess. uvicorn's own lines come in the same form; how much is
told follows its --log-level. Start it with --no-access-log: a line for each request halves the throughput, and the
metrics and the prediction log hold more. A client that sends a W3C `traceparent` finds its trace id as `request` in
every line about its request, as `trace` in the prediction log, and as x-request-id in the response.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TextIO

import msgspec

from stages.errors import ConfigError

UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_encode = msgspec.json.Encoder(enc_hook=str).encode

request: ContextVar[str | None] = ContextVar("request", default=None)


def trace_of(header: bytes) -> str | None:
    """The trace id of a traceparent header; None where it is not one by the W3C's rules."""
    found = _TRACEPARENT.fullmatch(header)
    if found is None or (header[:2] == b"00" and len(header) != 55):
        return None
    return found[1].decode()


def request_id() -> str:
    """What names the request at work in the log: the client's trace id, or one that is made here."""
    name = request.get()
    if name is None:
        name = os.urandom(16).hex()
        request.set(name)
    return name


class Json(logging.Formatter):
    """time, level, logger, message, request, what the call added, and a stack as one text."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (name := request.get()) is not None:
            line["request"] = name
        line |= {name: value for name, value in vars(record).items() if name not in _KNOWN and name not in line}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        try:
            return _encode(line).decode()
        except Exception:  # a value that cannot be told must not hide that something happened
            return _encode({name: ascii(value) for name, value in line.items()}).decode()


class Plain(logging.Formatter):
    """Time, level and message; nothing that a client sent can move the cursor or begin a line."""

    def format(self, record: logging.LogRecord) -> str:
        name = request.get()
        message = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], record.getMessage())
        said = f"{_time(record)[11:23]} {record.levelname.lower():7} {message}{f' [{name}]' if name else ''}"
        return f"{said}\n{self.formatException(record.exc_info)}" if record.exc_info else said


def configure(environment: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Take over the logging of this process. Raises ConfigError for a form that there is not."""
    out = stream or sys.stderr
    form = environment.get("PINWERK_LOG_FORMAT") or ("plain" if out.isatty() else "json")
    if form not in ("json", "plain"):
        raise ConfigError(f"PINWERK_LOG_FORMAT is {form!r}; expected json or plain")
    handler = logging.StreamHandler(out)
    handler.setFormatter(Json() if form == "json" else Plain())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in UVICORN:
        logger = logging.getLogger(name)
        if logger.handlers:  # without one it was turned off
            logger.handlers.clear()
            logger.propagate = True
    logging.getLogger("pinwerk").setLevel(logging.getLogger("uvicorn.error").level or logging.INFO)


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.created % 1 * 1e6):06}Z"
