"""A row is the same row in every protocol, and gets the same bits; garbage is refused in the protocol's own words."""

from __future__ import annotations

import csv
import io
import json
import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serve.protocols import BadInputError, Codec, Request, Served
from serve.protocols.invocations import Invocations
from serve.protocols.native import Native
from serve.protocols.torchserve import TorchServe
from serve.protocols.v1 import V1
from serve.protocols.v2 import LENGTH, V2
from serve.runtime import Predictor
from stages.bundle import Rows, sklearn_scores
from tests.serve.conftest import SIGNATURE

NAMES = [column.name for column in SIGNATURE.columns]
CODECS: list[Codec] = [Native(), Invocations(), V1("m"), V2("m"), TorchServe("m")]
MOST = 1000
JSON = {b"content-type": b"application/json"}

numbers = st.one_of(
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda x: abs(x) < 3e38),
    st.integers(-(2**53), 2**53),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 3.3e38, -3.3e38, 0.1]),
)
words = st.one_of(
    st.none(),
    st.sampled_from(["red", "blue", "", "green", "Red", " red", "a,b", 'a"b', "x:y", "\u00fcnseen", "\U0001f600"]),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00\r\n"), max_size=12),
)
records = st.lists(st.fixed_dictionaries({"size": numbers, "weight": numbers, "colour": words}), min_size=1, max_size=5)


def encoded(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=False).encode()


def columns(table: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in table] for name in NAMES}


def as_csv(table: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    rows = [
        ["" if row[name] is None else repr(row[name]) if name != "colour" else row[name] for name in NAMES]
        for row in table
    ]
    csv.writer(out).writerows([NAMES, *rows])
    return out.getvalue().encode()


def tensors(table: list[dict[str, Any]], *, binary: bool) -> Request:
    inputs: list[dict[str, Any]] = []
    tail = b""
    for name, values in columns(table).items():
        text = name == "colour"
        head: dict[str, Any] = {"name": name, "shape": [len(values), 1], "datatype": "BYTES" if text else "FP64"}
        if binary:
            if text:
                raw = b"".join(struct.pack("<I", len(w)) + w for w in ((v or "").encode() for v in values))
            else:
                raw = np.array([math.nan if v is None else v for v in values], dtype="<f8").tobytes()
            head["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            head["data"] = values
        inputs.append(head)
    body = encoded({"inputs": inputs})
    return Request(body + tail, {**JSON, LENGTH: b"%d" % len(body)} if binary else JSON)


def every_form(table: list[dict[str, Any]]) -> list[tuple[Codec, Request]]:
    native, invocations, v1, v2, torchserve = CODECS
    listed = [[row[name] for name in NAMES] for row in table]
    given = [{name: value for name, value in row.items() if value is not None} for row in table]
    split = {"columns": NAMES[::-1], "data": [row[::-1] for row in listed]}
    return [
        (native, Request(encoded(table), JSON)),
        (native, Request(encoded(given), JSON)),
        *((native, Request(encoded({"features": row}), JSON)) for row in (listed[0], table[0]) if len(table) == 1),
        (invocations, Request(encoded({"dataframe_records": table}), JSON)),
        (invocations, Request(encoded({"dataframe_split": split, "params": {}}), JSON)),
        (invocations, Request(encoded({"instances": listed}), JSON)),
        (invocations, Request(encoded({"inputs": columns(table)}), JSON)),
        (invocations, Request(as_csv(table), {b"content-type": b"text/csv"})),
        (v1, Request(encoded({"instances": table}), JSON)),
        (v1, Request(encoded({"inputs": columns(table)}), JSON)),
        (v2, tensors(table, binary=False)),
        (v2, tensors(table, binary=True)),
        (torchserve, Request(encoded(listed), JSON)),
        (torchserve, Request(encoded(table), JSON)),
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=records)
@example(table=[{"size": None, "weight": -0.0, "colour": "a,b"}, {"size": 5e-324, "weight": 7, "colour": None}])
def test_the_same_rows_get_the_same_bits_in_every_form_and_from_scikit_learn(
    predictor: Predictor, table: list[dict[str, Any]]
) -> None:
    expected = Rows(
        np.array(
            [[math.nan if row[n] is None else row[n] for n in ("size", "weight")] for row in table], dtype="float64"
        ),
        np.array([[row["colour"] or ""] for row in table], dtype="object"),
    )
    scores = sklearn_scores(predictor.model.fitted, expected.frame(SIGNATURE))
    for codec, request in every_form(table):
        decoded = codec.decode(request, SIGNATURE, MOST)
        assert decoded.rows.numeric.tobytes() == expected.numeric.tobytes(), (codec.name, request.body)
        assert decoded.rows.text.tolist() == expected.text.tolist(), (codec.name, request.body)
        answers = predictor.answers(decoded.rows)
        assert np.array(answers.scores).tobytes() == scores.tobytes()
        reply = codec.encode(answers, decoded, SIGNATURE, Served("m", "champion", "0" * 32, "1"))
        assert reply.status == 200
        if reply.content_type.startswith(b"application/json"):
            assert all(
                repr(score) in reply.body.decode() for score in scores.max(axis=1).tolist() if score not in (0, 1)
            )


def body_of(codec: Codec) -> bytes:
    table = [{"size": 1.5, "weight": None, "colour": "red"}, {"size": -2, "weight": 0.25, "colour": ""}]
    return next(request.body for other, request in every_form(table) if other is codec)


def refused(codec: Codec, request: Request) -> None:
    """Either it is answered or it is refused; nothing else comes out."""
    error = None
    try:
        codec.decode(request, SIGNATURE, MOST)
    except BadInputError as said:
        error = said
    if error is not None:
        assert 400 <= error.status < 500
        assert len(str(error)) < 2000
        reply = codec.refuse(error.status, str(error))
        assert 400 <= reply.status < 500
        msgspec.json.decode(reply.body)


kinds = st.sampled_from(
    [
        {},
        JSON,
        {b"content-type": b"text/csv"},
        {b"content-type": b"application/jsonlines"},
        {b"content-type": b"\xff/\xfe"},
    ]
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["features", "instances", "inputs", "dataframe_split", "dataframe_records", "columns", "data", "params", "name",
         "shape", "datatype", "parameters", "binary_data_size", "outputs", "id", "size", "weight", "colour"]
    ) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=300, deadline=None)
@given(body=st.one_of(st.binary(max_size=300), trees.map(lambda tree: json.dumps(tree).encode())), headers=kinds)
def test_garbage_is_refused_and_never_an_accident(codec: Codec, body: bytes, headers: dict[bytes, bytes]) -> None:
    refused(codec, Request(body, headers, b"probabilities=true&x"))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_sound_request_with_some_bytes_changed_is_answered_or_refused(codec: Codec, data: st.DataObject) -> None:
    body = bytearray(body_of(codec))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        body = body or bytearray(b" ")
    refused(codec, Request(bytes(body), JSON))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_binary_tensors_with_some_bytes_changed_are_answered_or_refused(data: st.DataObject) -> None:
    sound = tensors([{"size": 1.5, "weight": None, "colour": "red"}], binary=True)
    body, head = bytearray(sound.body), int(sound.headers[LENGTH])
    place = data.draw(st.integers(0, len(body) - 1))
    body[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    length = data.draw(st.sampled_from([b"%d" % head, b"0", b"-1", b"99999999999", b"x", b"%d" % (head + 1), b"\xb2"]))
    refused(CODECS[3], Request(bytes(body), {**JSON, LENGTH: length}))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"features":' * 100_000,
        b'{"instances": [' + b"9" * 100_000 + b"]}",
        b'{"features": {"size": 1, "size": 2}}',
        b'{"instances": [{"size": 1, "size": 2}]}',
        b'{"features": {"colour": "\\ud800"}}',
        b'[{"size": 1e999}]',
        b"\xef\xbb\xbf{}",
        b"",
    ],
)
def test_what_is_meant_to_hurt_is_refused(codec: Codec, body: bytes) -> None:
    with pytest.raises(BadInputError):
        codec.decode(Request(body, JSON), SIGNATURE, MOST)
    refused(codec, Request(body, JSON))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_more_rows_than_allowed_are_refused(codec: Codec) -> None:
    table = [{"size": 1.0, "weight": 2.0, "colour": "red"}] * 11
    for other, request in every_form(table):
        if other is codec:
            with pytest.raises(BadInputError, match="11 rows; at most 10") as error:
                codec.decode(request, SIGNATURE, 10)
            assert error.value.status == 413
