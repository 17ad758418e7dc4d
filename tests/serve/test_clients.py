"""Clients that people use, unmodified, against a real service."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.runtime import Predictor
from tests.conftest import ROOT
from tests.serve.conftest import table
from tests.serve.running import Service, lay_out, running

LOCK = ROOT / "requirements/clients.lock"
HOME = ROOT / ".clients"
MODEL = "pinwerk"
MOST = 60  # rows: enough that an answer is compressed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has the clients; made where it is not there or its lock has changed."""
    HOME.mkdir(exist_ok=True)
    done, uv, python = HOME / "lock", str(ROOT / ".uv/bin/uv"), str(HOME / "bin/python")
    with (HOME / "making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        if not done.is_file() or done.read_bytes() != LOCK.read_bytes():
            subprocess.run(
                [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(HOME)], check=True
            )
            command = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, str(LOCK)]
            subprocess.run(command, check=True)
            done.write_bytes(LOCK.read_bytes())
    return python


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    scratch = tmp_path_factory.mktemp("clients")
    with running(lay_out(scratch / "home", small_bundle), scratch) as service:
        yield service


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Rows with holes and texts that no training has seen."""
    X = table(MOST, seed=5)
    X.loc[:2, "colour"] = ["grün", "\U0001f600", "a,b"]
    X = X.astype("object").where(X.notna() & (X != ""), None)
    return [{str(name): value for name, value in row.items()} for row in X.to_dict(orient="records")]


@pytest.fixture(scope="module")
def expected(predictor: Predictor, rows: list[dict[str, Any]]) -> list[Any]:
    """Labels and scores as the bundle gives them offline."""
    X = table(MOST, seed=5)
    X.loc[:2, "colour"] = ["grün", "\U0001f600", "a,b"]
    return [predictor.model.predict(X).tolist(), predictor.model.predict_proba(X).tolist()]


@pytest.fixture(scope="module")
def said(python: str, service: Service, rows: list[dict[str, Any]]) -> dict[str, Any]:
    script = str(Path(__file__).with_name("clients.py"))
    done = subprocess.run(
        [python, script, service.url, MODEL],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("form", ["binary", "json"])
def test_triton_s_client_gets_the_bundle_s_bits(
    said: dict[str, Any], expected: list[Any], form: str, packed: str | None
) -> None:
    assert said["triton"][f"{form} {packed}"] == expected


def test_triton_s_client_finds_the_model_and_what_it_takes(said: dict[str, Any]) -> None:
    triton = said["triton"]
    assert triton["live"]
    assert triton["ready"]
    assert triton["model ready"] == [True, True]
    assert triton["another ready"] is False
    assert triton["inputs"] == ["size", "weight", "colour"]
    assert triton["server"] == ["binary_tensor_data"]
    assert triton["one output"] == ["probabilities"]
    assert triton["another"] == ["404", "there is no model 'another'; this service has pinwerk"]


@pytest.mark.parametrize("form", ["v1", "v2 binary", "v2 json"])
def test_kserve_s_client_gets_the_bundle_s_bits(said: dict[str, Any], expected: list[Any], form: str) -> None:
    assert said["kserve"][form] == expected


def test_kserve_s_client_finds_the_model(said: dict[str, Any]) -> None:
    kserve = said["kserve"]
    assert kserve["v1 ready"]
    assert kserve["v2 live"] == [True, True]
    assert kserve["v2 ready"]


def test_mlflow_s_client_gets_the_bundle_s_bits(service: Service, expected: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow about its own type hints
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    client = ScoringServerClient("127.0.0.1", service.port)
    client.wait_server_ready()
    X = table(MOST, seed=5)
    X.loc[:2, "colour"] = ["grün", "\U0001f600", "a,b"]
    answer = client.invoke(X).get_predictions()
    assert answer["prediction"].tolist() == expected[0]
    scores = answer[[f"probability_{label}" for label in "abc"]].to_numpy()
    assert np.array_equal(scores, np.array(expected[1]))
