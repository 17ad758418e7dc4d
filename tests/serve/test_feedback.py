"""The truth is taken when it is known: late, again, in batches; and joined with what was predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from serve.exchange import RefusedError
from serve.feedback import READ, checked
from serve.predictions import READ as PREDICTED
from stages.bundle import Signature
from tests.serve.running import Service, lay_out, running

ROW = {"features": {"size": 1.0, "weight": 2.0, "colour": "red"}}


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    scratch = tmp_path_factory.mktemp("feedback")
    with running(lay_out(scratch / "home", small_bundle), scratch, PINWERK_API_KEY="secret") as service:
        yield service


def post(service: Service, path: str, tree: Any, key: str = "secret") -> tuple[int, Any, dict[str, str]]:
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    answer = service.ask(path, body, {"content-type": "application/json", "x-api-key": key})
    return answer.status, json.loads(answer.body), answer.headers


def predicted(service: Service) -> str:
    return post(service, "/predict", ROW)[2]["x-prediction-id"]


def test_a_label_is_joined_with_its_prediction_and_the_last_one_counts(service: Service) -> None:
    one, other = predicted(service), predicted(service)
    assert post(service, "/feedback", {"id": one, "label": "b"})[:2] == (200, {"accepted": 1})
    assert post(service, "/feedback", [{"id": one, "label": "a"}, {"id": other, "label": "c"}])[1] == {"accepted": 2}
    folder = service.home / "data/live/predictions"
    told = dict(duckdb.sql(f"select id, label from ({READ.format(folder=folder)})").fetchall())
    assert (told[one], told[other]) == ("a", "c")
    service.ask("/metrics", headers={"x-api-key": "secret"})  # what was answered is on its way to the disk
    query = (
        f"select count(*) from ({PREDICTED.format(folder=folder)}) p join ({READ.format(folder=folder)}) f using (id)"
    )
    for _ in range(50):
        ((joined,),) = duckdb.sql(query).fetchall()
        if joined == 2:
            break
    assert joined == 2


def test_all_of_a_request_is_accepted_or_nothing(service: Service) -> None:
    name = predicted(service)
    status, said, _ = post(service, "/feedback", [{"id": name, "label": "a"}, {"id": name, "label": "purple"}])
    assert status == 422
    assert said["detail"] == "label 1: 'purple'; expected one of 'a', 'b', 'c'"
    folder = service.home / "data/live/predictions"
    assert name not in dict(duckdb.sql(f"select id, label from ({READ.format(folder=folder)})").fetchall())


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        ({"id": "nonsense", "label": "a"}, 422, "is no id of a prediction"),
        ({"id": "../../etc/passwd", "label": "a"}, 422, "is no id of a prediction"),
        ({"label": "a"}, 422, "expected"),
        ({"id": "0" * 22, "label": "a", "more": 1}, 422, "expected"),
        ({"id": "0" * 22, "label": None}, 422, "expected one of 'a', 'b', 'c'"),
        ([{"id": "0" * 22, "label": "a"}] * 10_001, 413, "10,001 labels"),
    ],
)
def test_what_is_no_feedback_is_refused(service: Service, body: Any, status: int, said: str) -> None:
    found, answer, _ = post(service, "/feedback", body)
    assert said in answer["detail"]
    assert found == status


def test_an_id_of_another_replica_is_accepted_and_a_wrong_key_is_not(service: Service) -> None:
    assert post(service, "/feedback", {"id": "0123456789ab0000000000", "label": "a"})[0] == 200
    assert post(service, "/feedback", {"id": "0123456789ab0000000000.7", "label": "a"})[0] == 200
    assert post(service, "/feedback", {"id": "0" * 22, "label": "a"}, key="wrong")[0] == 401


def test_a_label_is_kept_as_the_signature_has_it() -> None:
    numbers = Signature("binary", "t", (0, 1), None)
    assert checked(1.0, numbers, 0) == 1
    assert type(checked(1.0, numbers, 0)) is int
    assert checked(-2.5, Signature("regression", "t", None, None), 0) == -2.5
    for label, signature in ((True, numbers), ("1", numbers), (float("nan"), Signature("regression", "t", None, None))):
        with pytest.raises(RefusedError):
            checked(label, signature, 0)
