"""`/predict`: the tutorial's form to the byte, names, records, and every probability where asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from serve.protocols.native import Native
from serve.runtime import Predictor
from tests.serve.protocols.speaking import Speaker

ROW = {"size": 0.1, "weight": 1.25, "colour": "red"}


@pytest.fixture
def speaker(predictor: Predictor) -> Speaker:
    return Speaker(Native(), predictor)


def test_the_answer_has_two_keys_and_no_more(speaker: Speaker) -> None:
    body = speaker.reply({"features": [*ROW.values()]}).body
    assert re.fullmatch(rb'\{"prediction":"[abc]","probability":(0\.\d+|1\.0)\}', body)


def test_names_in_any_order_and_a_list_get_the_same(speaker: Speaker) -> None:
    turned = dict(reversed(ROW.items()))
    assert speaker.ask({"features": ROW}) == speaker.ask({"features": turned}) == speaker.ask([turned])[0]


def test_every_probability_comes_where_it_is_asked_for(speaker: Speaker) -> None:
    answer = speaker.ask({"features": ROW}, b"x=1&probabilities=true")
    assert [*answer["probabilities"]] == ["a", "b", "c"]
    assert answer["probability"] == answer["probabilities"][answer["prediction"]]
    assert "probabilities" not in speaker.ask({"features": ROW}, b"noprobabilities=true")


def test_null_an_empty_text_and_a_name_left_out_are_missing(speaker: Speaker) -> None:
    left_out = speaker.ask({"features": {"weight": 1.0}})
    assert speaker.ask({"features": {"size": None, "weight": 1.0, "colour": ""}}) == left_out
    assert speaker.ask({"features": [None, 1, None]}) == left_out


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b'{"features": [NaN, 1, "red"]}', 400, "not JSON"),
        (b'{"features": {"colour": "\xff"}}', 400, "not JSON"),
        (b'[{"colour": "\xff"}]', 400, "not JSON"),
        (b'{"\xff": 1}', 400, "not JSON"),
        (b'{"features": {"colour": "\\ud800"}}', 400, "not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"features": {"size": 1, "size": 2}}', 400, "the name 'size' is given twice"),
        (b'{"features": {"size": 1, "size": 2, "colour": "a"}}', 400, "the name 'size' is given twice"),
        (b'{"features": [1, 2, "a"], "features": [3, 4, "b"]}', 400, "the name 'features' is given twice"),
        (b'[{"size": 1, "weight": 1, "size": 2}]', 400, "the name 'size' is given twice"),
        ({"features": {"size": 10**400}}, 422, "size is 1000"),
        ({"features": {"radius": 1}}, 422, "unknown feature 'radius'; the model takes size, weight, colour"),
        ({"features": {"colour": 5}}, 422, "row 0: colour is 5; expected text"),
        ({"features": {"size": [1]}}, 422, "row 0: size is [1]; expected a number"),
        ({"features": ROW, "more": 1}, 422, 'expected {"features"'),
        ([ROW, [1, 2, "red"]], 422, 'expected {"features"'),
        ([], 422, "there is no row in it"),
        ([ROW] * 101, 413, "101 rows; at most 100 in one request"),
    ],
)
def test_what_does_not_fit_is_refused_and_says_why(speaker: Speaker, body: Any, status: int, said: str) -> None:
    found, answer = speaker.refusal(body)
    assert found == status
    assert said in answer["detail"]
    assert len(answer["detail"]) < 500


def test_a_colon_in_a_text_is_no_name(speaker: Speaker) -> None:
    body = json.dumps({"features": {**ROW, "colour": "a:b::c"}}).encode()
    assert speaker.ask(body) == speaker.ask({"features": {**ROW, "colour": "unseen"}})
