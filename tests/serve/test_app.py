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
    env = {**environment(tmp_path_factory.mktemp("serve")), "PYTHONPATH": str(ROOT)}
    command = ["python", "-W", "error", "-m", "uvicorn", "serve.app:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=reproduced, env=env)
    running = Server(f"http://127.0.0.1:{port}", reproduced)
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
    assert answer["prediction"] in (0, 1)
    assert 0 <= answer["probability"] <= 1


def test_every_form_of_a_row_gets_the_bits_that_the_bundle_gives_offline(server: Server, X: pd.DataFrame) -> None:
    rows = X.head(20)
    expected = open_bundle(server.home / "data/model").predict_proba(rows)
    by_position = [server.post({"features": row.tolist()})[1] for _, row in rows.iterrows()]
    by_name = [server.post({"features": row.to_dict()})[1] for _, row in rows.iterrows()]
    at_once = server.post(rows.to_dict(orient="records"))[1]
    assert by_position == by_name == at_once
    assert [list(answer["probabilities"].values()) for answer in at_once] == expected.tolist()


def test_the_served_model_is_the_one_that_dvc_lock_pins(server: Server) -> None:
    assert server.get("/model")["md5"] in (server.home / "dvc.lock").read_text()
    assert server.get("/health") == {"status": "healthy"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b'{"features": [NaN]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"features": [1, 2]}, "2 features, the model takes 30"),
        ({"features": {"radius": 1}}, "unknown feature 'radius'"),
        ({"features": {"mean_radius": "wide"}}, "mean_radius is 'wide'; expected a number"),
        ({"features": {"mean_radius": True}}, "expected a number"),
        ({"rows": []}, "expected"),
        ([], "expected"),
        ([1], "expected"),
        ({"features": {"mean_radius": 10**400}}, "expected a number"),
    ],
)
def test_what_does_not_fit_is_refused_and_says_why(server: Server, body: Any, said: str) -> None:
    status, answer = server.post(body)
    assert status == 422
    assert said in answer["detail"]


def test_a_missing_value_is_answered_as_scikit_learn_does(server: Server, X: pd.DataFrame) -> None:
    row = X.head(1).copy()
    row["mean_radius"] = float("nan")
    expected = open_bundle(server.home / "data/model").predict_proba(row)[0].tolist()
    features = {name: value for name, value in row.iloc[0].to_dict().items() if name != "mean_radius"}
    assert list(server.post({"features": features})[1]["probabilities"].values()) == expected
    assert list(server.post({"features": {**features, "mean_radius": None}})[1]["probabilities"].values()) == expected
