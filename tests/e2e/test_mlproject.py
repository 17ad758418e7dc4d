"""`mlflow run .` runs the pipeline."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import ROOT, Opened

pytestmark = pytest.mark.slow


def test_mlflow_run_makes_an_experiment_with_the_overrides_and_its_run(reproduced: Path, opened: Opened) -> None:
    repo = opened(reproduced)
    repo.write("MLproject", (ROOT / "MLproject").read_text(encoding="utf-8"))
    repo.commit("MLproject")
    overrides = "overrides=model=logistic_regression seed=7 evaluate.resamples=11"
    repo.run("python", "-m", "mlflow", "run", ".", "--env-manager", "local", "-P", overrides)
    params = repo.params()
    assert params["model"]["_target_"].endswith("LogisticRegression")
    assert (params["seed"], params["evaluate"]["resamples"]) == (7, 11)
    run = repo.run_id()
    with closing(sqlite3.connect(repo.path / "mlflow.db")) as store:
        tags = dict(store.execute("select key, value from tags where run_uuid = ?", (run,)).fetchall())
        parent = store.execute("select status from runs where run_uuid = ?", (tags["mlflow.parentRunId"],)).fetchone()
    assert parent == ("FINISHED",)
    assert tags["pinwerk.delivered"] == "true"


def test_without_overrides_mlflow_run_does_what_conf_says(reproduced: Path, opened: Opened) -> None:
    repo = opened(reproduced)
    repo.write("MLproject", (ROOT / "MLproject").read_text(encoding="utf-8"))
    repo.commit("MLproject")
    before = repo.read("params.yaml")
    assert "Traceback" not in repo.run("python", "-m", "mlflow", "run", ".", "--env-manager", "local")
    assert repo.read("params.yaml") == before
    assert "up to date" in repo.run("python", "-m", "mlflow", "run", ".", "-e", "repro", "--env-manager", "local")
