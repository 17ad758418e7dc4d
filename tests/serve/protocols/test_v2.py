"""The Open Inference Protocol by its bytes: every datatype, matrices, tensors behind the JSON, and what is refused."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.protocols import BadInputError, Decoded, Request, Served
from serve.protocols.native import Native
from serve.protocols.v2 import LENGTH, V2, metadata, server
from serve.runtime import Answers, Predictor
from stages.bundle import Rows, Signature, SignatureColumn
from tests.serve.conftest import SIGNATURE
from tests.serve.protocols.speaking import MODEL, MOST, Speaker

CODEC = V2(MODEL)
NUMBERS = Signature(
    "regression", "y", None, None, tuple(SignatureColumn(name, "numeric", False) for name in ("a", "b", "c"))
)
SERVED = Served(MODEL, "champion", "0" * 32, "p1")
DTYPES = {
    "BOOL": "?",
    **{f"INT{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)},
    **{f"UINT{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
    **{f"FP{8 * n}": f"<f{n}" for n in (2, 4, 8)},
}


def packed(texts: list[str]) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)


def tensor(name: str, datatype: str, data: Any, shape: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data, **more}


def binary(tree: dict[str, Any], *parts: bytes) -> Request:
    """A request whose inputs have their data behind the JSON."""
    for one, part in zip(tree["inputs"], parts, strict=True):
        one.pop("data", None)
        one["parameters"] = {"binary_data_size": len(part)}
    head = json.dumps(tree).encode()
    return Request(b"".join([head, *parts]), {LENGTH: b"%d" % len(head)})


def decoded(tree: Any, signature: Signature = NUMBERS) -> Decoded:
    request = tree if isinstance(tree, Request) else Request(json.dumps(tree).encode(), {})
    return CODEC.decode(request, signature, MOST)


def matrix(datatype: str, data: Any, shape: list[Any]) -> dict[str, Any]:
    return {"inputs": [tensor("any", datatype, data, shape)]}


def numeric(tree: Any, signature: Signature = NUMBERS) -> list[list[float]]:
    values: list[list[float]] = decoded(tree, signature).rows.numeric.tolist()
    return values


def same(left: Rows, right: Rows) -> None:
    assert left.numeric.dtype == right.numeric.dtype == np.dtype("float64")
    assert left.numeric.shape == right.numeric.shape
    assert left.text.shape == right.text.shape
    assert (left.numeric.view("u8") == right.numeric.view("u8")).all() or left.numeric.tobytes() == b""
    assert left.text.tolist() == right.text.tolist()


@pytest.mark.parametrize("datatype", DTYPES)
def test_each_numeric_datatype_is_read_from_json_and_from_bytes(datatype: str) -> None:
    values = np.array([0, 1, 1, 1, 0, 1]).astype(DTYPES[datatype])
    expected = values.astype("float64").reshape(2, 3).tolist()
    assert numeric(matrix(datatype, values.tolist(), [2, 3])) == expected
    assert numeric(binary(matrix(datatype, [], [2, 3]), values.tobytes())) == expected
    columns = [tensor(name, datatype, values[place::3].tolist()) for place, name in enumerate("abc")]
    assert numeric({"inputs": columns}) == expected
    assert numeric(binary({"inputs": columns}, *(values[place::3].tobytes() for place in range(3)))) == expected


@pytest.mark.parametrize("datatype", [name for name in DTYPES if "INT" in name])
def test_integers_go_to_the_ends_of_their_type_and_not_beyond(datatype: str) -> None:
    kind = np.iinfo(DTYPES[datatype])
    assert numeric(matrix(datatype, [kind.min, kind.max, 0], [1, 3])) == [[float(kind.min), float(kind.max), 0.0]]
    for beyond in (kind.min - 1, kind.max + 1, 10**30, -(10**30)):
        with pytest.raises(BadInputError):
            decoded(matrix(datatype, [beyond, 0, 0], [1, 3]))


def test_a_float_is_rounded_to_the_datatype_that_it_is_given_in() -> None:
    assert numeric(matrix("FP32", [0.1, 0.2, 3], [1, 3])) == [[float(np.float32(0.1)), float(np.float32(0.2)), 3.0]]
    assert numeric(matrix("FP64", [0.1, 0.2, 3], [1, 3])) == [[0.1, 0.2, 3.0]]
    for datatype, beyond in (("FP16", 70_000), ("FP32", 1e39), ("FP64", 10**400)):
        with pytest.raises(BadInputError):
            decoded(matrix(datatype, [beyond, 0, 0], [1, 3]))


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_tensor_for_each_feature_comes_in_any_order_and_an_absent_one_is_missing(shape: list[int]) -> None:
    inputs = [tensor("colour", "BYTES", ["red", ""], shape), tensor("weight", "FP32", [1.5, None], shape)]
    rows = decoded({"inputs": inputs}, SIGNATURE).rows
    assert np.isnan(rows.numeric[:, 0]).all()
    assert rows.numeric[0, 1] == 1.5
    assert math.isnan(rows.numeric[1, 1])
    assert rows.text.tolist() == [["red"], [""]]
    same(
        rows,
        decoded(
            binary({"inputs": inputs}, packed(["red", ""]), np.array([1.5, np.nan], "<f4").tobytes()), SIGNATURE
        ).rows,
    )


def test_data_are_row_major_flat_or_nested() -> None:
    flat, nested = [1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]
    assert numeric(matrix("INT64", flat, [2, 3])) == numeric(matrix("INT64", nested, [2, 3])) == nested
    assert decoded({"inputs": [tensor("size", "FP64", [[1], [2]], [2, 1])]}, SIGNATURE).rows.numeric[:, 0].tolist() == [
        1,
        2,
    ]


def test_a_matrix_of_texts_holds_numbers_as_text_for_a_mixed_model() -> None:
    data = ["1.5", "-2e3", "red", "", "0.1", ""]
    as_json = decoded(matrix("BYTES", data, [2, 3]), SIGNATURE).rows
    assert as_json.numeric[0].tolist() == [1.5, -2000]
    assert math.isnan(as_json.numeric[1, 0])
    assert as_json.numeric[1, 1] == 0.1
    assert as_json.text.tolist() == [["red"], [""]]
    same(as_json, decoded(binary(matrix("BYTES", [], [2, 3]), packed(data)), SIGNATURE).rows)
    for text in ("one", "1_000", "inf", "\u0661", "1e999", "0x1"):
        with pytest.raises(BadInputError, match="size"):
            decoded(matrix("BYTES", [text, "1", "red"], [1, 3]), SIGNATURE)


def test_a_missing_value_is_refused_where_the_feature_is_always_given() -> None:
    for tree in (
        matrix("FP64", [1, None, 3], [1, 3]),
        matrix("FP64", [1, math.nan, 3], [1, 3]),
        matrix("BYTES", ["1", "", "3"], [1, 3]),
        binary(matrix("FP64", [], [1, 3]), np.array([1, np.nan, 3]).tobytes()),
        {"inputs": [tensor("a", "FP64", [1]), tensor("c", "FP64", [3])]},
    ):
        with pytest.raises(BadInputError, match="b is missing"):
            decoded(tree)


def test_an_infinity_is_refused_in_json_and_in_bytes() -> None:
    for tree in (
        matrix("FP64", [1, math.inf, 3], [1, 3]),
        binary(matrix("FP64", [], [1, 3]), np.array([1, -np.inf, 3]).tobytes()),
        binary(matrix("FP16", [], [1, 3]), np.array([1, np.inf, 3], "<f2").tobytes()),
    ):
        with pytest.raises(BadInputError, match=r"b is -?inf"):
            decoded(tree)


GOOD = tensor("a", "FP64", [1.0])
REFUSED: dict[str, Any] = {
    "no object": [],
    "no inputs": {},
    "empty inputs": {"inputs": []},
    "inputs no list": {"inputs": {"a": 1}},
    "an input that is none": {"inputs": [3]},
    "no name": {"inputs": [{"datatype": "FP64", "shape": [1], "data": [1]}]},
    "duplicate inputs": {"inputs": [GOOD, GOOD]},
    "unknown feature": {"inputs": [tensor("z", "FP64", [1])]},
    "unknown datatype": {"inputs": [tensor("a", "FP8", [1])]},
    "a datatype that is a list": {"inputs": [{**GOOD, "datatype": ["FP64"]}]},
    "negative shape": {"inputs": [tensor("a", "FP64", [1], [-1])]},
    "negative both": matrix("FP64", [1, 2, 3], [-1, -3]),
    "bool in shape": {"inputs": [tensor("a", "FP64", [1], [True])]},
    "float in shape": {"inputs": [tensor("a", "FP64", [1], [1.0])]},
    "no dimension": {"inputs": [{**GOOD, "shape": []}]},
    "three dimensions": {"inputs": [tensor("a", "FP64", [1], [1, 1, 1])]},
    "shape is text": {"inputs": [{**GOOD, "shape": "1"}]},
    "no rows": {"inputs": [{**GOOD, "shape": [0], "data": []}]},
    "fewer values": {"inputs": [tensor("a", "FP64", [1], [2])]},
    "more values": {"inputs": [tensor("a", "FP64", [1, 2], [1])]},
    "wrong width": matrix("FP64", [1, 2], [1, 2]),
    "ragged": matrix("FP64", [[1, 2, 3, 4], [5, 6]], [2, 3]),
    "nested in part": matrix("FP64", [[1, 2, 3], 4, 5, 6], [2, 3]),
    "nested twice": matrix("FP64", [[[1, 2, 3]]], [1, 3]),
    "nested beneath [n]": {"inputs": [tensor("a", "FP64", [[1]])]},
    "text in FP64": matrix("FP64", ["1", "2", "3"], [1, 3]),
    "true in FP64": matrix("FP64", [True, 2, 3], [1, 3]),
    "null in INT64": matrix("INT64", [None, 2, 3], [1, 3]),
    "a fraction in INT64": matrix("INT64", [1.5, 2, 3], [1, 3]),
    "a number in BOOL": matrix("BOOL", [1, 0, 1], [1, 3]),
    "a number in BYTES": matrix("BYTES", [1, 2, 3], [1, 3]),
    "text for a number": {"inputs": [tensor(name, "BYTES", ["1"]) for name in "abc"]},
    "differing lengths": {"inputs": [tensor(name, "FP64", [1.0] * n) for n, name in enumerate("abc", 1)]},
    "two matrices": {"inputs": [tensor(name, "FP64", [1, 2, 3], [1, 3]) for name in "xy"]},
    "no data": {"inputs": [{"name": "a", "datatype": "FP64", "shape": [1]}]},
    "shared memory": {"inputs": [{**GOOD, "data": None, "parameters": {"shared_memory_region": "x"}}]},
    "data is an object": {"inputs": [{**GOOD, "data": {"a": 1}}]},
    "parameters no object": {"inputs": [{**GOOD, "parameters": 3}]},
    "a size without bytes": {
        "inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}]
    },
    "a size and data": {"inputs": [{**GOOD, "parameters": {"binary_data_size": 0}}]},
    "an id that is a number": {"id": 3, "inputs": [GOOD]},
    "outputs no list": {"inputs": [GOOD], "outputs": {"name": "prediction"}},
    "an output twice": {"inputs": [GOOD], "outputs": [{"name": "prediction"}] * 2},
    "an output that is not there": {"inputs": [GOOD], "outputs": [{"name": "probabilities"}]},
    "an output without name": {"inputs": [GOOD], "outputs": [{}]},
    "binary_data no flag": {"inputs": [GOOD], "outputs": [{"name": "prediction", "parameters": {"binary_data": 1}}]},
    "binary_data_output no flag": {"inputs": [GOOD], "parameters": {"binary_data_output": "yes"}},
    "classification": {"inputs": [GOOD], "outputs": [{"name": "prediction", "parameters": {"classification": 3}}]},
    "outputs of lists": {"inputs": [GOOD], "outputs": [{"name": "prediction", "parameters": [["classification"]]}]},
}


@pytest.mark.parametrize("tree", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_a_400_in_the_words_of_the_protocol(tree: Any) -> None:
    with pytest.raises(BadInputError) as refused:
        decoded(tree)
    reply = CODEC.refuse(refused.value.status, str(refused.value))
    assert reply.status == 400
    assert json.loads(reply.body) == {"error": str(refused.value)}


@pytest.mark.parametrize("shape", [[101], [10**18], [2**70, 3], [101, 3]])
def test_more_rows_than_allowed_are_refused_before_their_data_are_looked_at(shape: list[int]) -> None:
    with pytest.raises(BadInputError, match="at most 100") as refused:
        decoded({"inputs": [{"name": "any", "datatype": "FP64", "shape": shape, "data": 3}]})
    assert refused.value.status == 413
    assert CODEC.refuse(413, "x").status == 413


def with_tail(size: Any, tail: bytes, datatype: str = "FP64", length: bytes | None = None) -> Request:
    given = {"name": "any", "datatype": datatype, "shape": [1, 3], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given]}).encode()
    return Request(head + tail, {LENGTH: b"%d" % len(head) if length is None else length})


@pytest.mark.parametrize(
    "request_",
    [
        with_tail(24, b"\0" * 23),
        with_tail(24, b"\0" * 25),
        with_tail(16, b"\0" * 24),
        with_tail(16, b"\0" * 16),
        with_tail(23, b"\0" * 23),
        with_tail(-1, b"\0" * 24),
        with_tail(10**30, b"\0" * 24),
        with_tail(True, b"\0"),
        with_tail("24", b"\0" * 24),
        with_tail(24.0, b"\0" * 24),
        with_tail([24], b"\0" * 24),
        with_tail(24, b"\0" * 24, length=b"-1"),
        with_tail(24, b"\0" * 24, length=b""),
        with_tail(24, b"\0" * 24, length=b"1e3"),
        with_tail(24, b"\0" * 24, length=b"9" * 5000),
        with_tail(24, b"\0" * 24, length=b"10000"),
        with_tail(24, b"\0" * 24, length=b"0"),
        with_tail(24, b"\0" * 24, length=b"7"),
        with_tail(24, b"\0" * 24, length=b"\xb2"),
        with_tail(3, b"\0\1\2", "BOOL"),
        with_tail(3, b"\0\0\0", "BYTES"),
        with_tail(8, b"\1\0\0\0" + b"a" + b"\0\0\0", "BYTES"),
        with_tail(7, b"\xff\xff\xff\xffabc", "BYTES"),
        with_tail(16, packed(["1", "2", "3"]) + b"\0", "BYTES"),
        with_tail(20, packed(["1", "2", "3", "4"]), "BYTES"),
        with_tail(10, packed(["1", "2"]), "BYTES"),
        with_tail(15, packed(["1", "2"]) + b"\1\0\0\0\xff", "BYTES"),
        with_tail(17, packed(["1", "2"]) + b"\3\0\0\0\xed\xa0\x80", "BYTES"),
    ],
)
def test_bytes_that_lie_about_themselves_are_refused(request_: Request) -> None:
    with pytest.raises(BadInputError) as refused:
        decoded(request_)
    assert refused.value.status == 400


def test_half_a_surrogate_pair_is_refused() -> None:
    body = b'{"inputs": [{"name": "colour", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}'
    for text in (body, body.replace(b'{"inputs', b'{"x": NaN, "inputs')):
        with pytest.raises(BadInputError):
            decoded(Request(text, {}), SIGNATURE)


@pytest.mark.parametrize("deep", [200, 480, 700, 850, 900, 940, 970, 990, 1000, 100_000])
def test_nesting_without_end_is_refused_wherever_it_stands(deep: int) -> None:
    nested = [b"[" * deep + b"]" * deep, b'[{"a":' * (deep // 2) + b"1" + b"}]" * (deep // 2)]
    whole = b'{"id": %s, "outputs": %s, "inputs": [{"name": %s, "datatype": %s, "shape": %s, "data": %s}]}'
    for value in nested:
        for place in range(6):
            good = [b'"i"', b"[]", b'"a"', b'"FP64"', b"[1]", b"[1.0]"]
            good[place] = value
            with pytest.raises(BadInputError):
                decoded(Request(whole % tuple(good), {}))


def test_another_model_or_version_is_not_found() -> None:
    tree = json.dumps(matrix("FP64", [1, 2, 3], [1, 3])).encode()
    for parameters in ({"version": "1"}, {"name": MODEL, "version": "1"}, {}):
        CODEC.decode(Request(tree, {}, b"", parameters), NUMBERS, MOST)
    for parameters in ({"version": "2"}, {"version": ""}, {"name": "other"}):
        with pytest.raises(BadInputError) as refused:
            CODEC.decode(Request(tree, {}, b"", parameters), NUMBERS, MOST)
        assert refused.value.status == 404


def test_a_class_comes_with_the_probabilities_of_all(predictor: Predictor) -> None:
    tree = matrix("BYTES", ["1.5", "0.2", "red", "-1", "", "blue"], [2, 3])
    answer = Speaker(CODEC, predictor).ask({"id": "mine", **tree})
    expected = predictor.answers(decoded(tree, SIGNATURE).rows)
    assert answer == {
        "model_name": MODEL,
        "model_version": "1",
        "id": "mine",
        "outputs": [
            {"name": "prediction", "datatype": "BYTES", "shape": [2], "data": expected.labels},
            {
                "name": "probabilities",
                "datatype": "FP64",
                "shape": [2, 3],
                "data": list(chain.from_iterable(expected.scores)),
            },
        ],
    }
    assert Speaker(CODEC, predictor).ask(tree)["id"] == "1"


def test_only_the_outputs_that_are_asked_for_come_back_in_their_order(predictor: Predictor) -> None:
    tree = matrix("BYTES", ["1.5", "0.2", "red"], [1, 3])
    ask = Speaker(CODEC, predictor).ask
    names = [["probabilities"], ["probabilities", "prediction"], ["prediction"]]
    for asked in names:
        answer = ask({**tree, "outputs": [{"name": name} for name in asked]})
        assert [output["name"] for output in answer["outputs"]] == asked


@pytest.mark.parametrize(
    ("classes", "labels", "datatype", "raw"),
    [
        (None, [0.1, -2.5], "FP64", np.array([0.1, -2.5]).tobytes()),
        ((0, 1, 7), [7, 0], "INT64", np.array([7, 0], "<i8").tobytes()),
        (("a", "é", ""), ["é", "a"], "BYTES", packed(["é", "a"])),
    ],
)
def test_outputs_come_in_bytes_behind_the_json_where_asked_for(
    classes: Any, labels: list[Any], datatype: str, raw: bytes
) -> None:
    task = "regression" if classes is None else "multiclass"
    signature = Signature(task, "y", classes, None, NUMBERS.columns)
    scores = [[0.1], [-2.5]] if classes is None else [[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]
    tree = {**matrix("FP64", [1, 2, 3, 4, 5, 6], [2, 3]), "parameters": {"binary_data_output": True}}
    reply = CODEC.encode(Answers(labels, scores), decoded(tree, signature), signature, SERVED)
    assert reply.content_type == b"application/octet-stream"
    length = int(dict(reply.headers)[LENGTH])
    head, tail = json.loads(reply.body[:length]), reply.body[length:]
    assert head["outputs"][0]["datatype"] == datatype
    assert head["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    assert tail == raw + (b"" if classes is None else np.array(scores).tobytes())
    assert [output["name"] for output in head["outputs"]] == ["prediction", "probabilities"][
        : 1 if classes is None else 2
    ]


def test_each_output_says_for_itself_whether_it_is_binary(predictor: Predictor) -> None:
    outputs = [{"name": "prediction", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    tree = {**matrix("BYTES", ["1.5", "0.2", "red"], [1, 3]), "outputs": outputs}
    reply = Speaker(CODEC, predictor).reply({**tree, "parameters": {"binary_data_output": True}})
    head = json.loads(reply.body[: int(dict(reply.headers)[LENGTH])])
    assert "data" in head["outputs"][0]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 24}
    assert len(reply.body) == int(dict(reply.headers)[LENGTH]) + 24


def test_the_metadata_name_every_tensor() -> None:
    assert metadata(SIGNATURE, "m", ["1"]) == {
        "name": "m",
        "versions": ["1"],
        "platform": "pinwerk",
        "inputs": [
            {"name": "size", "datatype": "FP64", "shape": [-1]},
            {"name": "weight", "datatype": "FP64", "shape": [-1]},
            {"name": "colour", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "prediction", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, 3]},
        ],
    }
    assert [output["name"] for output in metadata(NUMBERS, "m", ["1"])["outputs"]] == ["prediction"]
    assert server()["extensions"] == ["binary_tensor_data"]


finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(st.none(), finite)
texts = st.one_of(st.none(), st.sampled_from(["red", "blue", ""]), st.text(st.characters(exclude_categories=["Cs"])))
tables = st.lists(st.tuples(numbers, numbers, texts), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(table=tables)
def test_a_row_is_the_same_as_through_the_native_protocol_bit_for_bit(table: list[tuple[Any, ...]]) -> None:
    names, columns = ("size", "weight", "colour"), list(zip(*table, strict=True))
    body = json.dumps([dict(zip(names, row, strict=True)) for row in table]).encode()
    native = Native().decode(Request(body, {}), SIGNATURE, MOST).rows
    datatypes = ("FP64", "FP64", "BYTES")
    inputs = [tensor(n, d, list(c)) for n, d, c in zip(names, datatypes, columns, strict=True)]
    raw = [np.array([math.nan if value is None else value for value in column]).tobytes() for column in columns[:2]]
    words = [
        "" if value is None else value if isinstance(value, str) else repr(value) for row in table for value in row
    ]
    same(decoded({"inputs": inputs}, SIGNATURE).rows, native)
    same(decoded(binary({"inputs": inputs}, *raw, packed(words[2::3])), SIGNATURE).rows, native)
    same(decoded(matrix("BYTES", words, [len(table), 3]), SIGNATURE).rows, native)
    same(decoded(binary(matrix("BYTES", [], [len(table), 3]), packed(words)), SIGNATURE).rows, native)


@settings(max_examples=200, deadline=None)
@given(table=st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_matrix_of_numbers_is_the_same_as_through_the_native_protocol_bit_for_bit(table: list[list[float]]) -> None:
    body = json.dumps([dict(zip("abc", row, strict=True)) for row in table]).encode()
    native = Native().decode(Request(body, {}), NUMBERS, MOST).rows
    same(decoded(matrix("FP64", table, [len(table), 3])).rows, native)
    same(decoded(binary(matrix("FP64", [], [len(table), 3]), np.array(table).tobytes())).rows, native)


def answered_or_refused(body: bytes, headers: dict[bytes, bytes], signature: Signature) -> None:
    request = Request(body, headers)
    refused = None
    try:
        rows = CODEC.decode(request, signature, MOST).rows
    except BadInputError as error:
        refused = error
    if refused is not None:
        assert refused.status in (400, 413, 422)
        assert len(str(refused)) < 2000
        json.loads(CODEC.refuse(refused.status, str(refused)).body)
        return
    assert 0 < len(rows) <= MOST
    assert rows.numeric.dtype == np.dtype("float64")
    assert not np.isinf(rows.numeric).any()
    assert rows.numeric.shape[1] == len(signature.numeric)
    assert rows.text.shape == (len(rows), len(signature.text))
    assert all(isinstance(word, str) and word.encode() is not None for word in rows.text.ravel())


lengths = st.one_of(st.none(), st.integers(-5, 400).map(lambda n: b"%d" % n), st.binary(max_size=5))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["FP64", "BYTES", "BOOL", "INT8", "a", "b", "size", "colour", "prediction", 1, 3, 10**25]),
)
keys = st.sampled_from(
    ["inputs", "outputs", "id", "parameters", "name", "shape", "datatype", "data", "binary_data_size"]
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=30
)
signatures = st.sampled_from([NUMBERS, SIGNATURE])


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=300), length=lengths, signature=signatures)
def test_bytes_of_any_kind_are_refused_in_good_order(body: bytes, length: bytes | None, signature: Signature) -> None:
    answered_or_refused(body, {} if length is None else {LENGTH: length}, signature)


@settings(max_examples=500, deadline=None)
@given(
    tree=trees,
    given=st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "shape", "datatype", "data", "parameters"), trees)),
        max_size=3,
    ),
    signature=signatures,
)
def test_json_of_any_kind_is_refused_in_good_order(tree: Any, given: list[Any], signature: Signature) -> None:
    body = {**(tree if isinstance(tree, dict) else {"outputs": tree}), "inputs": given}
    answered_or_refused(json.dumps(body).encode(), {}, signature)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_valid_request_that_was_tampered_with_is_answered_or_refused(data: st.DataObject) -> None:
    columns = {
        "inputs": [tensor("size", "FP16", [1.0]), tensor("weight", "INT64", [2]), tensor("colour", "BYTES", ["é"])]
    }
    raw = np.array([1], "<f2").tobytes(), np.array([2], "<i8").tobytes(), packed(["é"])
    mixed = binary(matrix("BYTES", [], [2, 3]), packed(["1", "2", "red", "", "4", ""]))
    valid = [
        (Request(json.dumps(columns).encode(), {}), SIGNATURE),
        (binary(columns, *raw), SIGNATURE),
        (mixed, SIGNATURE),
        (binary(matrix("FP32", [], [2, 3]), np.arange(6, dtype="<f4").tobytes()), NUMBERS),
        (
            Request(
                json.dumps({**matrix("FP64", [[1, 2, 3]], [1, 3]), "outputs": [{"name": "prediction"}]}).encode(), {}
            ),
            NUMBERS,
        ),
    ]
    request, signature = data.draw(st.sampled_from(valid))
    body = bytearray(request.body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        body = body or bytearray(b" ")
    shift = data.draw(st.sampled_from([0, 0, 0, 1, -1, 8]))
    headers = {name: b"%d" % (int(length) + shift) for name, length in request.headers.items()}
    answered_or_refused(bytes(body), headers, signature)


def test_nesting_is_refused_at_the_one_depth_where_json_is_read_and_not_counted() -> None:
    for deep in range(440, 510):
        with pytest.raises(BadInputError):
            decoded(Request(b'[{"a":' * deep + b"1" + b"}]" * deep, {}))
