"""JSON says one thing or is refused; Python's NaN is taken only where a protocol's clients send it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.protocols import BadInputError
from serve.protocols.parsing import decoded_json

trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


@given(tree=trees, spaced=st.booleans(), plain=st.booleans())
def test_what_is_json_is_read_as_it_stands(tree: Any, spaced: bool, plain: bool) -> None:
    body = json.dumps(tree, ensure_ascii=plain, indent=1 if spaced else None).encode()
    assert decoded_json(body) == decoded_json(body, nan=True) == tree


def test_nan_and_infinity_are_read_only_where_they_are_taken() -> None:
    body = b'{"a": [NaN, -Infinity, Infinity], "b": "NaN"}'
    value = decoded_json(body, nan=True)
    assert math.isnan(value["a"][0])
    assert value["a"][1:] == [-math.inf, math.inf]
    with pytest.raises(BadInputError, match="not JSON"):
        decoded_json(body)


@pytest.mark.parametrize("nan", [b"", b'"NaN", NaN, '])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'{"a": 1, "a": 2}', "the name 'a' is given twice"),
        (b'[1, {"a": 1, "a": 2}]', "the name 'a' is given twice"),
        (b'{"b": ":", "a": [{"c": 1, "c": 1}]}', "the name 'c' is given twice"),
        (b'{"a": 1, "\\u0061": 2}', "the name 'a' is given twice"),
        (b'"\xff"', "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b'"\\udc00x"', "not JSON"),
        (b'{"\\ud800": 1}', "not JSON"),
        (b"[" * 100_000, "too deeply"),
        (b'{"a":' * 100_000, "too deeply"),
        (b"01", "not JSON"),
        (b"1]", "not JSON"),
    ],
)
def test_what_does_not_say_one_thing_is_refused(nan: bytes, value: bytes, said: str) -> None:
    with pytest.raises(BadInputError, match=said) as refused:
        decoded_json(b"[" + nan + value + b"]", nan=True)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 300


def test_integers_of_any_length_are_read_or_refused() -> None:
    assert decoded_json(b"[%d]" % 10**30) == [10**30]
    assert decoded_json(b"[NaN, %d]" % 10**30, nan=True)[1] == 10**30
    with pytest.raises(BadInputError, match="not JSON"):
        decoded_json(b"[NaN, " + b"9" * 10_000 + b"]", nan=True)
