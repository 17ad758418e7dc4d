"""`/invocations` takes and gives what MLflow's server does for the same model, and SageMaker's CSV and JSON lines."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from serve.protocols.invocations import Invocations
from serve.runtime import Predictor
from stages.bundle import Signature
from tests.serve.protocols.speaking import Speaker

ROWS = [{"size": 0.1, "weight": 1.25, "colour": "red"}, {"size": None, "weight": -2.0, "colour": "unseen"}]
SPLIT = {"columns": ["size", "weight", "colour"], "data": [[*row.values()] for row in ROWS]}
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


@pytest.fixture
def speaker(predictor: Predictor) -> Speaker:
    return Speaker(Invocations(), predictor)


@pytest.fixture(scope="module")
def mlflow_model(small_bundle: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bundle as `record` logs it, loaded as `mlflow models serve` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow about its own type hints
        import mlflow.pyfunc

        from stages.tracking import _mlflow_signature

        folder = tmp_path_factory.mktemp("mlflow") / "model"
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module="stages.pyfunc",
            data_path=str(small_bundle),
            signature=_mlflow_signature(predictor.signature),
            pip_requirements=[],
        )
        return mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": SPLIT},
        {"dataframe_split": {**SPLIT, "index": [7, 9]}},
        {"dataframe_records": ROWS},
        {"dataframe_records": [{**row, "target": 3} for row in ROWS], "params": {"temperature": 1}},
        {"dataframe_records": [{"colour": "blue", "weight": 1}, {"weight": 3, "size": 2, "colour": "red"}]},
        {"dataframe_records": [{"size": math.nan, "weight": 0.5, "colour": "red"}]},
        {"instances": ROWS},
        {"inputs": COLUMNS},
        {"inputs": ROWS},
        {"inputs": {"size": 1.5, "weight": 2.5, "colour": "red"}},
    ],
)
def test_the_answer_is_the_json_that_mlflow_s_server_gives(speaker: Speaker, mlflow_model: Any, body: Any) -> None:
    from mlflow.pyfunc.scoring_server import invocations

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = invocations(
            json.dumps(body), "application/json", mlflow_model, mlflow_model.metadata.get_input_schema()
        )
    assert theirs.status == 200
    assert speaker.ask(body) == json.loads(theirs.response)


def test_csv_gets_the_json_that_mlflow_s_server_gives(speaker: Speaker, mlflow_model: Any) -> None:
    from mlflow.pyfunc.scoring_server import invocations

    body = b"weight,size,colour,other\n1.25,0.1,red,x\n-2,,blue,y\n"
    theirs = invocations(body, "text/csv", mlflow_model, mlflow_model.metadata.get_input_schema())
    assert speaker.ask(body, content_type="text/csv") == json.loads(theirs.response)


def test_csv_without_a_header_is_in_the_order_of_the_signature(speaker: Speaker) -> None:
    expected = speaker.ask({"dataframe_records": ROWS})
    assert speaker.ask(b"0.1,1.25,red\n,-2,unseen\n", content_type="text/csv") == expected


def test_who_accepts_csv_gets_it_with_a_header_where_the_request_had_one(speaker: Speaker) -> None:
    headed = speaker.reply(b"size,weight,colour\n0.1,1.25,red\n", content_type="text/csv", accept="text/csv")
    bare = speaker.reply(b"0.1,1.25,red\n", content_type="text/csv", accept="text/csv;q=0.9, */*")
    header, line = headed.body.decode().splitlines()
    assert headed.content_type == b"text/csv; charset=utf-8"
    assert header == "prediction,probability_a,probability_b,probability_c"
    assert bare.body.decode() == f"{line}\n"
    told = speaker.ask({"dataframe_records": ROWS[:1]})["predictions"][0]
    assert line == ",".join(str(value) for value in told.values())


def test_json_lines_come_back_as_json_lines_where_that_is_accepted(speaker: Speaker) -> None:
    body = b'{"size": 0.1, "weight": 1.25, "colour": "red"}\r\n\n[null, -2, "unseen"]\n'
    reply = speaker.reply(body, content_type="application/jsonlines", accept="application/jsonlines")
    told = [json.loads(line) for line in reply.body.splitlines()]
    assert told == speaker.ask({"dataframe_records": ROWS})["predictions"]
    features = b'{"features": [0.1, 1.25, "red"]}\n{"features": [null, -2, "unseen"]}'
    assert speaker.ask(features, content_type="application/jsonlines")["predictions"] == told


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "expected a JSON object with exactly one of dataframe_split"),
        ({}, "there is none"),
        ({"instances": ROWS, "inputs": COLUMNS}, "there are instances and inputs"),
        ({"dataframe_records": ROWS, "params": [1]}, "`params` is [1]; expected an object"),
        ({"dataframe_records": {"size": 1}}, "expected a list of records"),
        ({"dataframe_records": []}, "there is no row in it"),
        ({"dataframe_records": [{"size": "wide"}]}, "row 0: size is 'wide'; expected a number"),
        ({"dataframe_split": {"columns": ["size"]}}, "to be an object of columns, data"),
        ({"dataframe_split": {"columns": ["size"], "data": [[1, 2]]}}, "row 0 is [1, 2]; expected a list of 1 values"),
        ({"dataframe_split": {"columns": ["size", "size"], "data": [[1, 2]]}}, "two columns have the same name"),
        ({"dataframe_split": {"columns": ["other"], "data": [[1]]}}, "no column is a feature of the model"),
        ({"inputs": {"size": [1], "weight": [1, 2]}}, "the columns differ in length: 1, 2"),
        ({"inputs": {"size": [1], "weight": 2}}, "the column 'weight' is 2; expected a list"),
        ({"inputs": 5}, "`inputs` is 5"),
        ({"instances": ["red"]}, "row 0 is 'red'; expected an object of features"),
    ],
)
def test_what_does_not_fit_is_refused_in_mlflow_s_form(speaker: Speaker, body: Any, said: str) -> None:
    status, answer = speaker.refusal(body)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert said in answer["message"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("application/x-parquet", "Parquet and Arrow streams to /predict/file"), ("text/csv; charset=latin-1", "UTF-8")],
)
def test_a_content_type_that_is_not_taken_is_said(speaker: Speaker, kind: str, said: str) -> None:
    status, answer = speaker.refusal(b"x", content_type=kind)
    assert status == 415
    assert said in answer["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "there is no row in it"),
        (b"size,weight,colour\n", "there is no row in it"),
        (b"1,2\n", "row 0: 2 values, the model takes 3"),
        (b"size,weight\n1,2,3\n", "expected a list of 2 values"),
        (b"1_0,2,red\n", "size is '1_0'; expected a number"),
        (b"inf,2,red\n", "size is inf; expected a number"),
        ("\u0661,2,red\n".encode(), "expected a number"),
        (b"\xff", "not UTF-8"),
        (b'"a', "not CSV"),
    ],
)
def test_csv_that_does_not_fit_is_refused(speaker: Speaker, body: bytes, said: str) -> None:
    status, answer = speaker.refusal(body, content_type="text/csv")
    assert status == 400
    assert said in answer["message"]


def test_a_regression_has_no_probabilities() -> None:
    from serve.protocols import Decoded, Served
    from serve.runtime import Answers

    signature = Signature("regression", "y", None, None)
    answers = Answers([1.5, 2.5], [[1.5], [2.5]])
    served = Served("m", "champion", "0", "1")
    reply = Invocations().encode(answers, Decoded(None, (b"application/json", True)), signature, served)  # type: ignore[arg-type]
    assert reply.body == b'{"predictions":[{"prediction":1.5},{"prediction":2.5}]}'
