"""What holds for every protocol: the same row gets the same bits, and no body whatever gets anything but an answer."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serve.protocols import Codec
from serve.protocols.invocations import Invocations
from serve.protocols.native import Native
from serve.protocols.torchserve import TorchServe
from serve.protocols.v1 import V1
from serve.protocols.v2 import V2
from serve.runtime import Predictor
from stages.bundle import Rows, decide, sklearn_scores
from tests.serve.protocols.speaking import MODEL, Speaker

NAMES = ("size", "weight", "colour")
Row = tuple[float, float, str]
Answered = list[tuple[str, list[float]]]

numbers = st.one_of(
    st.floats(allow_infinity=False),
    st.integers(-(2**70), 2**70).map(float),
    st.sampled_from([math.nan, -0.0, 5e-324, -1.7976931348623157e308, 0.5, 0.1]),
)
texts = st.one_of(
    st.sampled_from(["red", "blue", "", "rouge", "RED", " red", "NA", "null", "né", "\U0001f600", 'a"b,c\nd', "\x00"]),
    st.text(st.characters(exclude_categories=["Cs"])),
).filter(lambda text: text not in NAMES)
tables = st.lists(st.tuples(numbers, numbers, texts), min_size=1, max_size=5)
often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def null(value: float | str) -> float | str | None:
    return None if value == "" or value != value else value


def nan(value: float | str) -> float | str:
    return math.nan if value == "" else value


def records(rows: list[Row], missing: Callable[[Any], Any]) -> list[dict[str, Any]]:
    return [dict(zip(NAMES, map(missing, row), strict=True)) for row in rows]


def lists(rows: list[Row], missing: Callable[[Any], Any]) -> list[list[Any]]:
    return [list(map(missing, row)) for row in rows]


def columns(rows: list[Row], missing: Callable[[Any], Any]) -> dict[str, list[Any]]:
    return {name: [missing(row[place]) for row in rows] for place, name in enumerate(NAMES)}


def lines(rows: list[Row], header: bool) -> bytes:
    out = io.StringIO()
    table = [["" if value != value else value for value in row] for row in rows]
    csv.writer(out).writerows([list(NAMES), *table] if header else table)
    return out.getvalue().encode()


def spread(answers: list[dict[str, Any]]) -> Answered:
    """The answers of MLflow's form."""
    return [(a["prediction"], [a[f"probability_{label}"] for label in "abc"]) for a in answers]


def native(answers: list[dict[str, Any]]) -> Answered:
    for answer in answers:
        assert answer["probability"] == answer["probabilities"][answer["prediction"]]
    return [(a["prediction"], [a["probabilities"][label] for label in "abc"]) for a in answers]


def tensors(answer: dict[str, Any]) -> Answered:
    labels, scores = answer["outputs"]
    return [(label, scores["data"][3 * n : 3 * n + 3]) for n, label in enumerate(labels["data"])]


def binary(rows: list[Row]) -> tuple[bytes, int]:
    """A request of V2 with every tensor behind the JSON."""
    parts = [np.array([row[place] for row in rows], dtype="<f8").tobytes() for place in (0, 1)]
    words = [row[2].encode() for row in rows]
    parts.append(b"".join(len(word).to_bytes(4, "little") + word for word in words))
    inputs = [
        {"name": name, "shape": [len(rows)], "datatype": kind, "parameters": {"binary_data_size": len(part)}}
        for name, kind, part in zip(NAMES, ("FP64", "FP64", "BYTES"), parts, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return b"".join([head, *parts]), len(head)


def every_way(predictor: Predictor, rows: list[Row]) -> dict[str, Answered]:
    """The answers to the same rows by every form of every protocol."""
    ask = {codec.name: Speaker(codec, predictor).ask for codec in codecs()}
    invoke, predict, infer, torch = ask["invocations"], ask["v1"], ask["v2"], ask["torchserve"]
    all_of = b"probabilities=true"
    forms = [make(rows, how) for make in (lists, records) for how in (null, nan)]
    by_v1 = [predict({"instances": form})["predictions"] for form in forms]
    inputs = [
        {"name": name, "shape": [len(rows), 1], "datatype": kind, "data": columns(rows, nan)[name]}
        for name, kind in (("size", "FP64"), ("weight", "FP64"))
    ]
    inputs.append({"name": "colour", "shape": [len(rows)], "datatype": "BYTES", "data": columns(rows, str)["colour"]})
    body, length = binary(rows)
    by_column = predict({"inputs": columns(rows, nan)})["outputs"]
    split = {"columns": list(NAMES), "data": lists(rows, nan)}
    said = "\n".join(json.dumps(row) for row in records(rows, null)).encode()
    return {
        "native named": native([ask["native"]({"features": r}, all_of) for r in records(rows, null)]),
        "native listed": native([ask["native"]({"features": r}, all_of) for r in lists(rows, null)]),
        "native records": native(ask["native"](records(rows, null), all_of)),
        "native left out": native(ask["native"]([given_of(r) for r in records(rows, null)], all_of)),
        "mlflow records": spread(invoke({"dataframe_records": records(rows, nan)})["predictions"]),
        "mlflow split": spread(invoke({"dataframe_split": split})["predictions"]),
        "mlflow instances": spread(invoke({"instances": records(rows, null)})["predictions"]),
        "mlflow inputs": spread(invoke({"inputs": columns(rows, nan)})["predictions"]),
        "csv": spread(invoke(lines(rows, True), content_type="text/csv")["predictions"]),
        "csv without header": spread(invoke(lines(rows, False), content_type="text/csv; charset=utf-8")["predictions"]),
        "json lines": spread(invoke(said, content_type="application/jsonlines")["predictions"]),
        **{f"v1 {n}": [(a["prediction"], a["probabilities"]) for a in answers] for n, answers in enumerate(by_v1)},
        "v1 inputs": list(zip(by_column["prediction"], by_column["probabilities"], strict=True)),
        "v2": tensors(infer({"inputs": inputs})),
        "v2 binary": tensors(infer(body, inference_header_content_length=str(length))),
        "torchserve": native(torch(lists(rows, null), all_of)),
        "torchserve records": native(torch(records(rows, null), all_of)),
    }


def given_of(record: dict[str, Any]) -> dict[str, Any]:
    """Without the names of what is missing."""
    return {name: value for name, value in record.items() if value is not None}


def codecs() -> list[Codec]:
    return [Native(), Invocations(), V1(MODEL), V2(MODEL), TorchServe(MODEL)]


@often
@given(rows=tables)
@example(rows=[(math.nan, math.nan, "")])
@example(rows=[(1e300, -1e300, "red\x00"), (0.1, 0.2, "blue")])
def test_the_same_row_gets_the_same_bits_by_every_protocol_and_as_the_bundle_offline(
    predictor: Predictor, rows: list[Row]
) -> None:
    values = Rows(
        np.array([row[:2] for row in rows], dtype="float64"), np.array([[row[2]] for row in rows], dtype="object")
    )
    scores = predictor.model.scores_of(values)
    expected = list(zip(decide(scores, predictor.signature).tolist(), scores.tolist(), strict=True))
    for way, answers in every_way(predictor, rows).items():
        assert answers == expected, way
    if not (np.abs(values.numeric) > np.finfo("float32").max).any():  # beyond it a forest of scikit-learn refuses
        by_sklearn = sklearn_scores(predictor.model.fitted, values.frame(predictor.signature))
        assert scores.tolist() == by_sklearn.tolist()
