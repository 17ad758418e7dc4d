"""The bundle behind MLflow's interface answers as the bundle does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.bundle import Model, open_bundle
from stages.pyfunc import Answering
from tests.conftest import Repository, environment


@pytest.fixture(scope="module")
def repo(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A copy of its own, moved away from where its runs were recorded."""
    folder = tmp_path_factory.mktemp("pyfunc")
    subprocess.run(["cp", "-a", str(reproduced), str(folder / "repo")], check=True)
    return Repository(folder / "repo", environment(folder))


@pytest.fixture(scope="module")
def model(repo: Repository) -> Model:
    return open_bundle(repo.path / "data/model")


@pytest.fixture(scope="module")
def X(  # noqa: N802
    repo: Repository, model: Model
) -> pd.DataFrame:
    """Rows of the test split, some of them with holes."""
    names = [column.name for column in model.signature.columns]
    rows = pd.read_parquet(repo.path / "data/prepared/test.parquet")[names].astype("float64").head(40)
    rows.iloc[::3, ::4] = np.nan
    return rows


def expected(model: Model, X: pd.DataFrame) -> pd.DataFrame:
    answer = {"prediction": model.predict(X)}
    for number, label in enumerate(model.signature.classes or ()):
        answer[f"probability_{label}"] = model.predict_proba(X)[:, number]
    return pd.DataFrame(answer, index=X.index)


def test_answers_are_bit_equal_to_the_bundle_s(model: Model, X: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(Answering(model).predict(X), expected(model, X), check_exact=True)


def test_an_absent_column_is_all_missing_and_one_too_many_is_not_looked_at(model: Model, X: pd.DataFrame) -> None:
    name = X.columns[0]
    answer = Answering(model).predict(X.drop(columns=name).assign(other=1))
    pd.testing.assert_frame_equal(answer, expected(model, X.assign(**{name: np.nan})), check_exact=True)


def test_the_order_of_columns_and_the_index_do_not_matter(model: Model, X: pd.DataFrame) -> None:
    shuffled = X[X.columns[::-1]].set_index(pd.Index(range(100, 100 + len(X))))
    answer = Answering(model).predict(shuffled)
    assert list(answer.index) == list(shuffled.index)
    pd.testing.assert_frame_equal(answer.set_index(X.index), expected(model, X), check_exact=True)


def test_no_rows_give_no_answers(model: Model, X: pd.DataFrame) -> None:
    answer = Answering(model).predict(X.head(0))
    assert list(answer.columns) == ["prediction", "probability_0", "probability_1"]
    assert len(answer) == 0


@pytest.mark.slow
def test_the_registered_model_loads_and_answers_with_the_same_bits(
    repo: Repository, model: Model, X: pd.DataFrame, tmp_path: Path
) -> None:
    repo.run("python", "-m", "stages.record")  # the store follows the repository to where it is now
    elsewhere = Repository(tmp_path, repo.env)  # where only the code that the version holds is importable
    X.to_parquet(tmp_path / "rows.parquet")
    code = f"""
import pandas as pd, mlflow
mlflow.set_tracking_uri("sqlite:///{repo.path}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/breast_cancer/1")
model.predict(pd.read_parquet("rows.parquet")).to_parquet("answers.parquet")
"""
    elsewhere.run("python", "-c", code)
    answers = pd.read_parquet(tmp_path / "answers.parquet")
    pd.testing.assert_frame_equal(answers, expected(model, X), check_exact=True)


@pytest.mark.slow
def test_mlflow_serves_the_registered_model(repo: Repository, model: Model, X: pd.DataFrame) -> None:
    repo.run("python", "-m", "stages.record")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "models serve -m models:/breast_cancer/1 --env-manager local --workers 1 --host 127.0.0.1 --port"
    with (repo.path / "served.txt").open("w") as log:
        server = subprocess.Popen(
            ["python", "-m", "mlflow", *command.split(), str(port)],
            cwd=repo.path,
            env={**repo.env, "MLFLOW_TRACKING_URI": f"sqlite:///{repo.path}/mlflow.db"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            answer = _asked(f"http://127.0.0.1:{port}/invocations", X, server)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert pd.DataFrame(answer["predictions"]).to_dict("list") == expected(model, X).to_dict("list")


def _asked(url: str, X: pd.DataFrame, server: subprocess.Popen[bytes]) -> dict[str, list[dict[str, float]]]:
    rows = {"dataframe_split": json.loads(X.to_json(orient="split", double_precision=15))}
    request = urllib.request.Request(url, json.dumps(rows).encode(), {"Content-Type": "application/json"})
    for _ in range(300):
        assert server.poll() is None
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                answer: dict[str, list[dict[str, float]]] = json.load(reply)
                return answer
        except ConnectionError:
            time.sleep(0.2)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(0.2)
    raise AssertionError("the server never answered")
