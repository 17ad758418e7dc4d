"""The model API as a client sees it: a real uvicorn process in a repository whose pipeline has run."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.bundle import open_bundle
from stages.config import Config, read_params, validate
from stages.dataset import read_split
from tests.conftest import ROOT, environment


@dataclass(frozen=True)
class Server:
    url: str
    home: Path

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, body: Any, path: str = "/predict") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def server(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tmp_path_factory.mktemp("serve")
    home = scratch / "repo"
    subprocess.run(["cp", "-a", str(reproduced), str(home)], check=True)
    env = {**environment(scratch), "PYTHONPATH": str(ROOT)}
    command = ["python", "-W", "error", "-m", "uvicorn", "serve.app:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=home, env=env)
    running = Server(f"http://127.0.0.1:{port}", home)
    try:
        for _ in range(300):
            assert process.poll() is None, "the server ended"
            try:
                running.get("/health")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        assert process.wait(timeout=30) in (0, -15)


@pytest.fixture(scope="module")
def config(reproduced: Path) -> Config:
    return validate(read_params(reproduced / "params.yaml"))


@pytest.fixture(scope="module", name="X")
def features(reproduced: Path, config: Config) -> pd.DataFrame:
    return read_split(config.data.columns, config.data.task, "test", reproduced / "data/prepared").X


def test_the_tutorials_request_gets_the_tutorials_answer(server: Server, X: pd.DataFrame) -> None:
    status, answer = server.post({"features": X.iloc[0].tolist()})
    assert status == 200
    assert list(answer) == ["prediction", "probability"]
    assert answer["prediction"] in (0, 1)
    assert 0 <= answer["probability"] <= 1


def test_every_form_of_a_row_gets_the_bits_that_the_bundle_gives_offline(server: Server, X: pd.DataFrame) -> None:
    rows = X.head(20)
    expected = open_bundle(server.home / "data/model").predict_proba(rows)
    path = "/predict?probabilities=true"
    by_position = [server.post({"features": row.tolist()}, path)[1] for _, row in rows.iterrows()]
    by_name = [server.post({"features": row.to_dict()}, path)[1] for _, row in rows.iterrows()]
    at_once = server.post(rows.to_dict(orient="records"), path)[1]
    assert by_position == by_name == at_once
    assert [list(answer["probabilities"].values()) for answer in at_once] == expected.tolist()


def test_the_served_model_is_the_one_that_dvc_lock_pins(server: Server) -> None:
    assert server.get("/model")["md5"] in (server.home / "dvc.lock").read_text()
    assert server.get("/health") == {"status": "healthy"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b'{"features": [NaN]}', 400, "not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b"\xff", 400, "not JSON"),
        ({"features": [1, 2]}, 422, "2 values, the model takes 30"),
        ({"features": {"radius": 1}}, 422, "unknown feature 'radius'"),
        ({"features": {"mean_radius": "wide"}}, 422, "mean_radius is 'wide'; expected a number"),
        ({"rows": []}, 422, "expected"),
        ([], 422, "there is no row"),
        ([1], 422, "expected"),
        ({"features": {"mean_radius": 10**400}}, 422, "expected a number"),
        ([{}] * 10_001, 413, "10,001 rows; at most 10,000"),
    ],
)
def test_what_does_not_fit_is_refused_and_says_why(server: Server, body: Any, status: int, said: str) -> None:
    found, answer = server.post(body)
    assert said in answer["detail"]
    assert found == status


def test_a_path_that_is_not_there_and_a_method_that_is_not_are_told_so(server: Server) -> None:
    assert server.post({}, "/nowhere")[0] == 404
    assert server.post({}, "/health")[0] == 405


def test_a_missing_value_is_answered_as_scikit_learn_does(server: Server, X: pd.DataFrame) -> None:
    row = X.head(1).copy()
    row["mean_radius"] = float("nan")
    expected = open_bundle(server.home / "data/model").predict_proba(row)[0].tolist()
    features = {name: value for name, value in row.iloc[0].to_dict().items() if name != "mean_radius"}
    for given in (features, {**features, "mean_radius": None}, {**features, "mean_radius": ""}):
        said = server.post({"features": given}, "/predict?probabilities=true")[1]
        assert list(said["probabilities"].values()) == expected
