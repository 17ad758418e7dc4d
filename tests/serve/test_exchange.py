"""What holds for every request for predictions, whatever its protocol: the key, the limits, the record."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from serve.batching import Batcher
from serve.exchange import Answered, Exchange, Observer
from serve.live import Live, Variant
from serve.pins import LockFile
from serve.protocols.native import Native
from serve.runtime import Predictor
from serve.settings import Settings, read_settings
from tests.conftest import ROOT

ROW = {"features": [0.5, 1.0, "red"]}


class Notes(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Answered] = []
        self.kinds: list[str] = []

    def answered(self, event: Answered) -> None:
        self.events.append(event)

    def refused(self, protocol: str, kind: str) -> None:  # noqa: ARG002
        self.kinds.append(kind)


@dataclass
class Said:
    """The answer to one request."""

    status: int
    headers: dict[bytes, bytes]
    body: Any


@pytest.fixture
def settings() -> Settings:
    return read_settings({}, ROOT / "params.yaml")


def limited(settings: Settings, **limits: Any) -> Settings:
    return replace(
        settings, serve=settings.serve.model_copy(update={"limits": settings.serve.limits.model_copy(update=limits)})
    )


def asked(
    settings: Settings,
    predictor: Predictor | None,
    parts: Sequence[bytes],
    headers: dict[bytes, bytes] | None = None,
    pause: float = 0.0,
    query: bytes = b"",
) -> tuple[Said | None, Notes]:
    """One request, its body in parts with pauses between them."""
    notes, messages = Notes(), []
    live = Live(settings, LockFile(Path("dvc.lock")))
    if predictor is not None:
        live.variants = {"champion": Variant("champion", predictor, 0.0, "test")}
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        if len(left) < len(parts):
            await asyncio.sleep(pause)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        messages.append(message)

    async def work() -> None:
        batcher = Batcher(settings.serve.limits.requests)
        exchange = Exchange(settings, live, batcher, (notes,))
        scope = {"type": "http", "headers": list((headers or {}).items()), "query_string": query}
        await exchange(Native(), scope, receive, send)
        batcher.close()

    asyncio.run(work())
    if not messages:
        return None, notes
    start, body = messages
    return Said(start["status"], dict(start["headers"]), json.loads(body["body"])), notes


def answer_to(*args: Any, **kwargs: Any) -> Said:
    said, _ = asked(*args, **kwargs)
    assert said is not None
    return said


def test_an_answer_names_the_variant_the_model_and_the_prediction(settings: Settings, predictor: Predictor) -> None:
    said, notes = asked(settings, predictor, [json.dumps(ROW).encode()])
    assert said is not None
    assert said.status == 200
    assert said.headers[b"x-variant"] == b"champion"
    assert said.headers[b"x-model-md5"] == predictor.md5.encode()
    (event,) = notes.events
    assert event.id.encode() == said.headers[b"x-prediction-id"]
    assert event.answers.labels == [said.body["prediction"]]
    assert abs(event.time / 1e9 - time.time()) < 60
    assert 0 < event.seconds < 60


def test_a_body_in_many_parts_is_the_same_body(settings: Settings, predictor: Predictor) -> None:
    body = json.dumps(ROW).encode()
    parts = [body[i : i + 1] for i in range(len(body))]
    assert answer_to(settings, predictor, parts).body == answer_to(settings, predictor, [body]).body


def test_a_body_over_the_limit_is_refused_before_it_is_read(settings: Settings, predictor: Predictor) -> None:
    small = limited(settings, bytes=100)
    for parts, headers in (
        ([b"x" * 101], {b"content-length": b"101"}),
        ([b"x" * 101], {}),
        ([b"x" * 60, b"x" * 60, b"x"], {}),
        ([gzip.compress(b"x" * 10_000)], {b"content-encoding": b"gzip"}),
    ):
        said, notes = asked(small, predictor, parts, headers)
        assert said is not None
        assert (said.status, notes.kinds) == (413, ["bad_input"])
        assert "over 100 bytes" in said.body["detail"]


@pytest.mark.parametrize(("encoding", "packed"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_a_compressed_body_is_inflated_and_a_damaged_one_refused(
    settings: Settings, predictor: Predictor, encoding: bytes, packed: Any
) -> None:
    body = packed(json.dumps(ROW).encode())
    headers = {b"content-encoding": encoding}
    assert answer_to(settings, predictor, [body], headers).status == 200
    assert answer_to(settings, predictor, [body[:-4]], headers).status == 400
    assert answer_to(settings, predictor, [b"\x00" + body], headers).status == 400
    assert answer_to(settings, predictor, [body], {b"content-encoding": b"br"}).status == 415


def test_a_body_that_does_not_arrive_is_given_up(settings: Settings, predictor: Predictor) -> None:
    said, notes = asked(limited(settings, seconds=0.05), predictor, [b"{", b"}"], pause=5)
    assert said is not None
    assert (said.status, notes.kinds) == (408, ["timeout"])


def test_a_client_that_goes_away_in_the_middle_gets_nothing(settings: Settings, predictor: Predictor) -> None:
    said, notes = asked(settings, predictor, [])
    assert said is None
    assert notes.events == []


def test_without_a_model_the_client_is_told_to_come_again(settings: Settings) -> None:
    said, notes = asked(settings, None, [json.dumps(ROW).encode()])
    assert said is not None
    assert (said.status, said.headers[b"retry-after"], notes.kinds) == (503, b"1", ["not_ready"])


def test_where_too_many_wait_the_client_is_told_to_come_again(settings: Settings, predictor: Predictor) -> None:
    said, notes = asked(limited(settings, requests=0), predictor, [json.dumps(ROW).encode()])
    assert said is not None
    assert (said.status, said.headers[b"retry-after"], notes.kinds) == (503, b"1", ["overloaded"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({b"x-api-key": b"wrong"}, 401),
        ({b"authorization": b"Bearer "}, 401),
        ({b"x-api-key": b"\xff\xfe"}, 401),
        ({b"x-api-key": b"secret"}, 200),
        ({b"authorization": b"Bearer secret"}, 200),
    ],
)
def test_where_a_key_is_set_it_is_asked_for(
    settings: Settings, predictor: Predictor, headers: dict[bytes, bytes], status: int
) -> None:
    assert (
        answer_to(replace(settings, api_key="secret"), predictor, [json.dumps(ROW).encode()], headers).status == status
    )


def test_a_declared_length_that_is_no_number_is_refused(settings: Settings, predictor: Predictor) -> None:
    assert answer_to(settings, predictor, [b"{}"], {b"content-length": b"many"}).status == 400


def test_a_model_that_fails_is_an_error_without_its_insides(settings: Settings, predictor: Predictor) -> None:
    class Broken(Predictor):
        def answers(self, rows: Any) -> Any:  # noqa: ARG002
            raise RuntimeError("/secret/path")

    said, notes = asked(settings, Broken(predictor.model, predictor.md5), [json.dumps(ROW).encode()])
    assert said is not None
    assert (said.status, notes.kinds) == (500, ["failed"])
    assert "secret" not in str(said.body)


def test_many_rows_are_answered_off_the_loop_and_the_same(settings: Settings, predictor: Predictor) -> None:
    records = [{"size": i / 100, "weight": 1.0, "colour": "red"} for i in range(3000)]
    said = answer_to(settings, predictor, [json.dumps(records).encode()], query=b"probabilities=true")
    assert len(said.body) == 3000
    one = answer_to(settings, predictor, [json.dumps(records[7:8]).encode()], query=b"probabilities=true")
    assert one.body[0] == said.body[7]
