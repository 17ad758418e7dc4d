"""`/predictions/NAME` takes what /predict takes, and bare lists; errors are TorchServe's."""

from __future__ import annotations

from typing import Any

import pytest

from serve.protocols.native import Native
from serve.protocols.torchserve import TorchServe
from serve.runtime import Predictor
from tests.serve.protocols.speaking import MODEL, Speaker

ROW = {"size": 0.1, "weight": 1.25, "colour": "red"}


@pytest.fixture
def speaker(predictor: Predictor) -> Speaker:
    return Speaker(TorchServe(MODEL), predictor)


@pytest.mark.parametrize("body", [ROW, [*ROW.values()], {"features": ROW}, {"features": [*ROW.values()]}])
def test_one_row_in_any_form_gets_the_answer_of_predict(speaker: Speaker, predictor: Predictor, body: Any) -> None:
    expected = Speaker(Native(), predictor).ask({"features": ROW}, b"probabilities=true")
    assert speaker.ask(body, b"probabilities=true") == expected
    assert "probabilities" not in speaker.ask(body)


@pytest.mark.parametrize("body", [[ROW, ROW], [[*ROW.values()]] * 2])
def test_a_list_of_rows_gets_a_list(speaker: Speaker, body: Any) -> None:
    assert speaker.ask(body) == [speaker.ask(ROW)] * 2


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        (b"{", 400, "BadRequestException", "the body is not JSON"),
        ([], 400, "BadRequestException", "there is no row in it"),
        (5, 400, "BadRequestException", 'expected {"features"'),
        ([1, 2], 400, "BadRequestException", "row 0: 2 values, the model takes 3"),
        ([ROW] * 101, 413, "RequestEntityTooLargeException", "101 rows; at most 100 in one request"),
    ],
)
def test_what_does_not_fit_is_refused_with_code_type_and_message(
    speaker: Speaker, body: Any, status: int, kind: str, said: str
) -> None:
    found, answer = speaker.refusal(body)
    assert (found, answer["code"], answer["type"]) == (status, status, kind)
    assert said in answer["message"]


def test_another_model_or_version_is_not_found(speaker: Speaker) -> None:
    for parameters in ({"name": "other"}, {"version": "2.0"}):
        status, answer = speaker.refusal(ROW, parameters=parameters)
        assert (status, answer["type"]) == (404, "ModelNotFoundException")
