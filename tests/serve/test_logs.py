"""What the service says is one JSON object a line, or plain; never a line that a client has made up."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from serve.logs import configure, request, trace_of
from stages.errors import ConfigError

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], logging.getLogger("pinwerk").level
    yield
    root.handlers[:] = handlers
    logging.getLogger("pinwerk").setLevel(level)


def said(form: str, write: object) -> str:
    stream = io.StringIO()
    configure({"PINWERK_LOG_FORMAT": form}, stream)
    write()  # type: ignore[operator]
    return stream.getvalue()


def test_a_line_of_json_holds_what_was_said_and_the_stack_of_an_error() -> None:
    def write() -> None:
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            logging.getLogger("pinwerk.test").exception("a %s failed", "thing", extra={"md5": "abc"})

    (line,) = said("json", write).splitlines()
    tree = json.loads(line)
    assert (tree["message"], tree["level"], tree["logger"], tree["md5"]) == (
        "a thing failed",
        "error",
        "pinwerk.test",
        "abc",
    )
    assert "broken" in tree["stack"]
    assert tree["time"].endswith("Z")


@pytest.mark.parametrize("form", ["json", "plain"])
def test_what_a_client_sent_cannot_begin_a_line_of_its_own(form: str) -> None:
    text = said(
        form, lambda: logging.getLogger("pinwerk.test").warning("got %s", "x\n12:00 error \x1b[31mforged\u2028")
    )
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_lines_about_a_request_name_it() -> None:
    token = request.set("0af7651916cd43dd8448eb211c80319c")
    try:
        line = said("json", lambda: logging.getLogger("pinwerk.test").warning("slow"))
    finally:
        request.reset(token)
    assert json.loads(line)["request"] == "0af7651916cd43dd8448eb211c80319c"


def test_a_traceparent_is_taken_over_where_it_is_one() -> None:
    assert trace_of(TRACE) == "0af7651916cd43dd8448eb211c80319c"
    for wrong in (b"", b"00-" + b"0" * 32 + TRACE[35:], TRACE[:-1], b"ff" + TRACE[2:], TRACE.upper(), TRACE + b"-x"):
        assert trace_of(wrong) is None


def test_a_form_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match="PINWERK_LOG_FORMAT is 'xml'; expected json or plain"):
        configure({"PINWERK_LOG_FORMAT": "xml"})
