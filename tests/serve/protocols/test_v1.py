"""`:predict` takes and gives what TensorFlow Serving, KServe V1 and Vertex AI do."""

from __future__ import annotations

from typing import Any

import pytest

from serve.protocols import Decoded, Served
from serve.protocols.v1 import V1, metadata, state
from serve.runtime import Answers, Predictor
from stages.bundle import Rows, Signature
from tests.serve.conftest import SIGNATURE
from tests.serve.protocols.speaking import MODEL, Speaker

ROW = {"size": 0.1, "weight": 1.25, "colour": "red"}


@pytest.fixture
def speaker(predictor: Predictor) -> Speaker:
    return Speaker(V1(MODEL), predictor)


def test_instances_get_predictions_row_by_row(speaker: Speaker) -> None:
    answer = speaker.ask({"instances": [ROW, [*ROW.values()]], "signature_name": "serving_default", "parameters": {}})
    first, second = answer["predictions"]
    assert first == second
    assert first["prediction"] == "abc"[first["probabilities"].index(max(first["probabilities"]))]


def test_inputs_get_outputs_by_column(speaker: Speaker) -> None:
    by_row = speaker.ask({"instances": [ROW, ROW]})["predictions"]
    expected = {name: [row[name] for row in by_row] for name in ("prediction", "probabilities")}
    assert speaker.ask({"inputs": {name: [value] * 2 for name, value in ROW.items()}}) == {"outputs": expected}
    assert speaker.ask({"inputs": {name: [[value]] * 2 for name, value in ROW.items()}}) == {"outputs": expected}
    assert speaker.ask({"inputs": [[*ROW.values()]] * 2}) == {"outputs": expected}


@pytest.mark.parametrize(("form", "key"), [("instances", "predictions"), ("inputs", "outputs")])
def test_the_one_output_of_a_regression_stands_without_its_name(form: str, key: str) -> None:
    signature = Signature("regression", "y", None, None)
    decoded = Decoded(Rows([], []), form == "inputs")  # type: ignore[arg-type]
    reply = V1(MODEL).encode(Answers([1.5, 2.0], [[1.5], [2.0]]), decoded, signature, Served(MODEL, "c", "0", "1"))
    assert reply.body == b'{"%s":[1.5,2.0]}' % key.encode()


@pytest.mark.parametrize("parameters", [{"name": MODEL}, {"version": "1"}, {"label": "stable"}, {"label": "champion"}])
def test_what_is_live_has_its_name_one_version_and_two_labels(speaker: Speaker, parameters: dict[str, str]) -> None:
    assert speaker.ask({"instances": [ROW]}, parameters=parameters)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"name": "other"}, "there is no model 'other'; this service has pinwerk"),
        ({"version": "2"}, "pinwerk has no version '2'; the live one is 1"),
        ({"label": "canary"}, "pinwerk has no label 'canary'; it has champion, stable"),
        ({"name": "x" * 5000}, "there is no model 'xxx"),
    ],
)
def test_another_model_version_or_label_is_not_found(speaker: Speaker, parameters: dict[str, str], said: str) -> None:
    status, answer = speaker.refusal({"instances": [ROW]}, parameters=parameters)
    assert status == 404
    assert answer["error"].startswith(said)
    assert len(answer["error"]) < 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "expected a JSON object with either `instances` or `inputs`"),
        ({"instances": [ROW], "inputs": [ROW]}, "either `instances` or `inputs`"),
        ({"instances": ROW}, "expected a list of rows"),
        ({"instances": []}, "there is no row in it"),
        ({"instances": [ROW], "signature_name": "train"}, "there is no signature 'train', only serving_default"),
        ({"instances": [ROW], "signature_name": ["a"]}, "there is no signature ['a']"),
        ({"instances": [{"size": {"b64": "AA=="}}]}, "row 0: size is {'b64': 'AA=='}; expected a number"),
        ({"instances": [{"sise": 1}]}, "row 0: unknown feature 'sise'; the model takes size, weight, colour"),
        ({"instances": [[1, 2]]}, "row 0: 2 values, the model takes 3: size, weight, colour"),
    ],
)
def test_what_does_not_fit_is_a_400_that_says_why(speaker: Speaker, body: Any, said: str) -> None:
    status, answer = speaker.refusal(body)
    assert status == 400
    assert said in answer["error"]


def test_the_state_has_the_words_of_tensorflow_serving_and_of_kserve() -> None:
    assert state(MODEL, ready=True) == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ],
        "name": MODEL,
        "ready": True,
    }
    loading = state(MODEL, ready=False)
    assert (loading["ready"], loading["model_version_status"][0]["state"]) == (False, "LOADING")


def test_the_metadata_name_every_feature_and_output_with_its_type() -> None:
    told = metadata(MODEL, SIGNATURE)["metadata"]["signature_def"]["signature_def"]["serving_default"]
    kinds = {name: tensor["dtype"] for name, tensor in told["inputs"].items()}
    assert kinds == {"size": "DT_DOUBLE", "weight": "DT_DOUBLE", "colour": "DT_STRING"}
    assert {name: tensor["dtype"] for name, tensor in told["outputs"].items()} == {
        "prediction": "DT_STRING",
        "probabilities": "DT_DOUBLE",
    }
    assert [d["size"] for d in told["outputs"]["probabilities"]["tensor_shape"]["dim"]] == ["-1", "3"]
