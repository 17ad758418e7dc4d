"""Every path that the protocols' clients call, on a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.running import Answer, Service, lay_out, running

ROW = {"size": 0.1, "weight": 1.25, "colour": "red"}
INSTANCES = {"instances": [ROW]}
INPUTS = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": "BYTES" if name == "colour" else "FP64", "data": [value]}
        for name, value in ROW.items()
    ]
}


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    scratch = tmp_path_factory.mktemp("routes")
    routes = {"AIP_PREDICT_ROUTE": "/v1/endpoints/7/deployedModels/8:predict", "AIP_HEALTH_ROUTE": "/v1/endpoints/7"}
    with running(lay_out(scratch / "home", small_bundle), scratch, **routes) as service:
        yield service


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has no model."""
    scratch = tmp_path_factory.mktemp("empty")
    with running(lay_out(scratch / "home", None), scratch) as service:
        yield service


def posted(service: Service, path: str, body: Any, **headers: str) -> Answer:
    return service.ask(path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})


def prediction(answer: Answer) -> Any:
    """The label in an answer of any protocol."""
    assert answer.status == 200, answer.body
    tree = json.loads(answer.body)
    if "outputs" in tree:
        return tree["outputs"][0]["data"][0]
    tree = tree["predictions"][0] if "predictions" in tree else tree
    return tree["prediction"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations", INSTANCES),
        ("/v1/models/pinwerk:predict", INSTANCES),
        ("/v1/models/pinwerk/versions/1:predict", INSTANCES),
        ("/v1/models/pinwerk/labels/champion:predict", INSTANCES),
        ("/v1/endpoints/7/deployedModels/8:predict", {**INSTANCES, "parameters": {}}),
        ("/v2/models/pinwerk/infer", INPUTS),
        ("/v2/models/pinwerk/versions/1/infer", INPUTS),
        ("/predictions/pinwerk", ROW),
        ("/predictions/pinwerk/1", ROW),
    ],
)
def test_each_protocol_answers_as_predict_does_and_names_the_model(service: Service, path: str, body: Any) -> None:
    native = posted(service, "/predict", {"features": ROW})
    answer = posted(service, path, body)
    assert prediction(answer) == prediction(native)
    assert answer.headers["x-model-md5"] == native.headers["x-model-md5"]
    assert answer.headers["x-prediction-id"] != native.headers["x-prediction-id"]


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/models/other:predict", INSTANCES, "error"),
        ("/v1/models/pinwerk/versions/2:predict", INSTANCES, "error"),
        ("/v1/models/pinwerk/labels/canary:predict", INSTANCES, "error"),
        ("/v2/models/other/infer", INPUTS, "error"),
        ("/v2/models/pinwerk/versions/2/infer", INPUTS, "error"),
        ("/predictions/other", ROW, "message"),
        ("/predictions/pinwerk/2", ROW, "message"),
    ],
)
def test_what_is_not_served_is_not_found_in_the_protocol_s_form(
    service: Service, path: str, body: Any, key: str
) -> None:
    answer = posted(service, path, body)
    assert answer.status == 404
    assert json.loads(answer.body)[key].startswith(("there is no model 'other'", "pinwerk has no "))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ping", {"status": "Healthy"}),
        ("/v1/models", {"models": ["pinwerk"]}),
        ("/v2/health/live", {"live": True, "ready": True}),
        ("/v2/health/ready", {"live": True, "ready": True}),
        ("/v2/models/pinwerk/ready", {"name": "pinwerk", "ready": True}),
        ("/v2/models/pinwerk/versions/1/ready", {"name": "pinwerk", "ready": True}),
    ],
)
def test_who_asks_whether_a_model_is_there_is_told(service: Service, path: str, expected: Any) -> None:
    answer = service.ask(path)
    assert (answer.status, json.loads(answer.body)) == (200, expected)


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/version", {"version"}),
        ("/v1/models/pinwerk", {"model_version_status", "name", "ready"}),
        ("/v1/models/pinwerk/versions/1", {"model_version_status", "name", "ready"}),
        ("/v1/models/pinwerk/metadata", {"model_spec", "metadata"}),
        ("/v2", {"name", "version", "extensions"}),
        ("/v2/models/pinwerk", {"name", "versions", "platform", "inputs", "outputs"}),
        ("/v2/models/pinwerk/versions/1", {"name", "versions", "platform", "inputs", "outputs"}),
        ("/v1/endpoints/7", {"status"}),
    ],
)
def test_who_asks_what_the_model_is_is_told(service: Service, path: str, keys: set[str]) -> None:
    answer = service.ask(path)
    assert answer.status == 200
    assert {*json.loads(answer.body)} == keys


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/other",
        "/v1/models/pinwerk/versions/2",
        "/v1/models/other/metadata",
        "/v2/models/other",
        "/v2/models/other/ready",
        "/v2/models/pinwerk/versions/2",
    ],
)
def test_who_asks_about_another_model_or_version_is_told_that_it_is_not_there(service: Service, path: str) -> None:
    answer = service.ask(path)
    assert answer.status == 404
    assert "pinwerk" in json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    "path", ["/ping", "/v1/models/pinwerk", "/v2/health/ready", "/v2/models/pinwerk/ready", "/v2/models/pinwerk"]
)
def test_a_service_without_a_model_says_that_it_is_not_ready(empty: Service, path: str) -> None:
    assert empty.ask(path).status == 503
    assert empty.ask("/v2/health/live").status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations", INSTANCES),
        ("/v1/models/pinwerk:predict", INSTANCES),
        ("/v2/models/pinwerk/infer", INPUTS),
        ("/predictions/pinwerk", ROW),
    ],
)
def test_a_request_before_there_is_a_model_may_be_sent_again(empty: Service, path: str, body: Any) -> None:
    answer = posted(empty, path, body)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert "no model is loaded yet" in answer.body.decode()
