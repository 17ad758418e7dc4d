from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from stages import evaluate as stage
from stages.bundle import Signature, SignatureColumn, bundle_md5, open_bundle, signature_tree
from stages.config import Config, load_config
from stages.dataset import Split
from stages.errors import DataError, ModelError
from stages.files import write_json
from stages.fitted import dump_pipeline
from stages.scoring import classified

CONF = Path(__file__).parents[2] / "conf"
METRICS = {
    "binary": ["roc_auc", "average_precision", "neg_log_loss", "f1"],
    "multiclass": ["neg_log_loss", "roc_auc_ovr", "accuracy", "f1_macro"],
    "regression": ["neg_root_mean_squared_error", "neg_mean_absolute_error", "r2"],
}
PIPELINE = """
stages:
  evaluate:
    params: [seed, evaluate, data.name, data.title, data.task, data.columns, data.slices]
"""


@dataclass
class Place:
    """A folder with params.yaml, prepared splits and a bundle, as the earlier stages leave it."""

    folder: Path
    tree: dict[str, Any]
    pipeline: Pipeline
    signature: Signature

    def save(self) -> None:
        (self.folder / "params.yaml").write_text(json.dumps(self.tree))

    def config(self) -> Config:
        self.save()
        return load_config("evaluate")

    def run(self) -> dict[str, Any]:
        self.save()
        stage.main()
        return self.read("metrics.json")

    def read(self, name: str) -> Any:
        return json.loads((self.folder / "data/reports" / name).read_text())

    def bundle(self, path: str, pipeline: Pipeline, signature: Signature) -> Path:
        target = self.folder / path
        target.mkdir(parents=True, exist_ok=True)
        dump_pipeline(pipeline, target / "pipeline.skops")
        write_json(target / "signature.json", signature_tree(signature))
        write_json(target / "provenance.json", {"params": {"model": {"_target_": "sklearn.Forest"}}})
        return target


LOADERS = {"binary": load_breast_cancer, "multiclass": load_wine, "regression": load_diabetes}


def place(folder: Path, task: str, labels: list[str] | None = None, days: bool = False) -> Place:
    table = LOADERS[task](as_frame=True)
    frame = table.data.iloc[:, :6].copy()
    frame.columns = pd.Index([name.replace(" ", "_").replace("/", "_") for name in frame.columns])
    features = list(frame.columns)
    y = table.target.to_numpy()
    frame["target"] = y if labels is None else np.array(labels, dtype="object")[y]
    frame["side"] = np.where(np.arange(len(frame)) % 3 > 0, "left", "right")
    if days:
        frame["at"] = np.datetime64("2024-01-01", "us") + np.arange(len(frame)) * np.timedelta64(3, "h")
    order = np.random.default_rng(0).permutation(len(frame))
    cuts = {"train": order[:80], "validation": order[80:110], "test": np.sort(order[110:])}
    (folder / "data/prepared").mkdir(parents=True)
    for name, rows in cuts.items():
        frame.iloc[rows].reset_index(drop=True).to_parquet(folder / f"data/prepared/{name}.parquet")
    (folder / "dvc.yaml").write_text(PIPELINE)
    pipeline = _fitted(task, features, frame.iloc[cuts["train"]])
    classes = None if task == "regression" else tuple(pipeline.classes_.tolist())
    columns = tuple(SignatureColumn(name, "numeric", True) for name in features)
    signature = Signature(task, "target", classes, 0.4 if task == "binary" else None, columns)
    made = Place(folder, _params(task, features, days), pipeline, signature)
    made.bundle("data/model", pipeline, signature)
    return made


def _fitted(task: str, features: list[str], train: pd.DataFrame) -> Pipeline:
    forest = RandomForestRegressor if task == "regression" else RandomForestClassifier
    columns = ColumnTransformer([("numeric", "passthrough", features)], verbose_feature_names_out=False)
    pipeline = Pipeline([("features", columns), ("model", forest(20, max_depth=4, random_state=0))])
    return pipeline.fit(train[features].astype("float64"), train["target"].to_numpy())


def _group(name: str) -> Any:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def _params(task: str, features: list[str], days: bool) -> dict[str, Any]:
    metrics = METRICS[task]
    return {
        "data": {
            "task": {"name": task, "estimator": "Classifier", "primary": metrics[0], "metrics": metrics},
            "name": "small",
            "title": "Does it work <& how>",
            "tables": {"t": {"path": "t.csv"}},
            "query": "t.sql",
            "as_of": None,
            "snapshot": 1,
            "columns": {
                "target": "target",
                "time": "at" if days else None,
                "key": [],
                "numeric": {name: {} for name in features},
                "categorical": {},
                "passthrough": ["side"],
            },
            "slices": ["side"],
            "split": {"by": "random", "test": 0.2, "validation": 0.2, "current": 0.0},
            "quarantine": 0.01,
            "leakage": {"limit": 0.99},
        },
        "features": {},
        "model": {},
        "train": {"threshold": None, "search": None, "targets": []},
        "evaluate": {
            "metrics": metrics,
            "primary": metrics[0],
            "resamples": 40,
            "confidence": 0.95,
            "slices": ["side"],
            "smallest_slice": 20,
            "importance": {"rows": 100, "repeats": 2},
            "gate": {"champion": None, "margin": 0.1},
        },
        "drift": _group("drift/default"),
        "tracking": _group("tracking/embedded"),
        "engine": _group("engine/duckdb"),
        "serve": _group("serve/default"),
        "seed": 42,
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


DRAWN = {
    "binary": {"roc", "precision_recall", "calibration", "confusion", "scores", "importance"},
    "multiclass": {"roc", "precision_recall", "calibration", "confusion", "scores", "importance"},
    "regression": {"calibration", "residuals", "predicted_actual", "importance"},
}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_each_task_gets_metrics_plots_a_verdict_and_a_report(
    here: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = place(here, task)
    metrics = made.run()
    for name in METRICS[task]:
        assert metrics["test_low"][name] <= metrics["test"][name] <= metrics["test_high"][name]
        assert metrics["test"][name] > metrics["dummy"][name]
        assert metrics["validation"][name] is not None
    assert metrics["gate_passed"] == 1
    assert made.read("gate.json")["passed"] is True
    assert metrics["threshold"] == (0.4 if task == "binary" else None)
    plots = here / "data/reports/evaluate"
    assert {path.stem for path in plots.glob("*.png")} == DRAWN[task]
    assert {path.stem for path in plots.glob("*.json") if path.stat().st_size > 3} == {*DRAWN[task], "slices"}
    report = (here / "data/reports/report.html").read_text()
    assert "Does it work &lt;&amp; how&gt;" in report
    assert report.count("<svg role") == len(DRAWN[task])
    assert "gate passed" in capsys.readouterr().out


def test_the_same_inputs_give_the_same_bytes(here: Path) -> None:
    made = place(here, "binary", labels=["no", "yes"], days=True)
    made.run()
    reports = here / "data/reports"
    first = {path: path.read_bytes() for path in reports.rglob("*") if path.is_file()}
    made.run()
    assert {path: path.read_bytes() for path in reports.rglob("*") if path.is_file()} == first
    assert made.read("evaluate/confusion.json")[0]["actual"] == "no"
    assert "bootstrap over whole days" in (reports / "report.html").read_text()


def test_the_threshold_of_the_signature_makes_the_labels(here: Path) -> None:
    made = place(here, "binary")
    model = open_bundle(here / "data/model")
    X = pd.read_parquet(here / "data/prepared/test.parquet")[[c.name for c in made.signature.columns]]
    predicted = stage.predictions(model, X, np.zeros(len(X), dtype=int))
    assert np.array_equal(predicted.labels == 1, predicted.scores[:, 1] > 0.4)


def test_the_champion_is_compared_on_the_same_rows(here: Path) -> None:
    made = place(here, "binary")
    made.tree["evaluate"]["gate"]["champion"] = bundle_md5(here / "data/model")
    made.run()
    verdict = made.read("gate.json")
    assert verdict["passed"]
    assert verdict["difference_to_champion"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "Champion" in (here / "data/reports/report.html").read_text()


def contested(here: Path, y: np.ndarray, **scores: np.ndarray) -> stage.Verdict:
    """The gate's verdict on models that give these probabilities."""
    made = place(here, "binary")
    test = Split(pd.DataFrame({"x": np.zeros(len(y))}), y, None, pd.DataFrame(), pd.DataFrame())
    models = {
        name: classified(y, (p > 0.5).astype(int), np.column_stack([1 - p, p]), (0, 1)) for name, p in scores.items()
    }
    config = made.config()
    return stage.verdict(config, stage.score(models, ("roc_auc",), test, config), None)


def test_the_margin_is_that_of_each_resample_and_not_of_the_estimate(here: Path) -> None:
    generator = np.random.default_rng(0)
    y = (np.arange(60) % 2).astype(int)
    champion = np.clip(0.5 + 0.25 * (y - 0.5) + generator.normal(0, 0.15, 60), 0, 1)
    found = contested(here, y, candidate=champion - 1e-9, champion=champion, dummy=np.full(60, 0.5))
    room, champion_leads = found.contest.room, found.contest.champion
    assert room is not None
    assert room.low is not None
    assert champion_leads is not None
    assert champion_leads.low is not None
    assert room.low == pytest.approx(0.1 * (champion_leads.low - 0.5))  # not a tenth of the estimate's lead
    assert found.passed


def test_a_champion_below_the_dummy_gives_no_room(here: Path) -> None:
    y = (np.arange(400) % 2).astype(int)
    worse = 0.5 - 0.2 * (y - 0.5) + np.random.default_rng(0).normal(0, 0.1, 400)
    found = contested(here, y, candidate=worse - 1e-3 * y, champion=worse, dummy=np.full(400, 0.5))
    assert found.contest.room == found.contest.over_champion


def test_one_row_of_a_class_is_not_enough_to_pass(here: Path) -> None:
    """On more than a third of the resamples it is not drawn, and an area under the curve does not exist."""
    y = np.array([1] + [0] * 40)
    found = contested(here, y, candidate=y * 0.8 + 0.1, dummy=np.full(41, 0.5))
    assert not found.passed
    assert "not defined on enough resamples" in found.reasons[0]


def test_the_primary_metric_is_drawn_often_enough_whatever_is_asked_for_the_others(here: Path) -> None:
    made = place(here, "binary")
    config, y = made.config(), np.arange(50) % 2
    test = Split(pd.DataFrame({"x": np.zeros(50)}), y, None, pd.DataFrame(), pd.DataFrame())
    said = {"candidate": classified(y, y, np.column_stack([1 - y, y]), (0, 1))}
    drawn = stage.score(said, ("roc_auc", "f1"), test, config).drawn["candidate"]
    assert (len(drawn["roc_auc"]), len(drawn["f1"])) == (1000, 40)


def test_the_dummy_says_the_shares_of_the_training_rows() -> None:
    three = Signature("multiclass", "target", ("a", "b", "c"), None)
    said = stage.dummy(three, np.array(["b", "b", "a", "b"], dtype=object), np.array(["a", "c"], dtype=object))
    assert said.scores.tolist() == [[0.25, 0.75, 0.0]] * 2
    assert said.labels.tolist() == [1, 1]
    value = stage.dummy(Signature("regression", "target", None, None), np.array([1.0, 2.0]), np.zeros(3))
    assert value.labels.tolist() == [1.5] * 3


def test_a_full_disk_is_told_in_one_line(here: Path) -> None:
    """As a limit on the size of files, which asks for no right to mount."""
    place(here, "binary").save()
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); from stages.errors import "
    program += "run_stage; from stages.evaluate import main; run_stage(main)"
    env = {**os.environ, "PYTHONPATH": str(CONF.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: data/reports/evaluate: could not be written (File too large); what was there is kept\n"
    )
    assert list((here / "data/reports").iterdir()) == []


def test_a_candidate_worse_than_the_champion_is_held_back(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = place(here, "binary")
    champion = made.bundle("champion", made.pipeline, made.signature)
    train = pd.read_parquet(here / "data/prepared/train.parquet")
    features = [column.name for column in made.signature.columns]
    weak = Pipeline(
        [("features", ColumnTransformer([("n", "passthrough", features[:1])])), ("model", LogisticRegression())]
    )
    shuffled = np.random.default_rng(1).permutation(train["target"].to_numpy())
    made.bundle("data/model", weak.fit(train[features].astype("float64"), shuffled), made.signature)
    monkeypatch.setattr(stage, "find_bundle", lambda _: champion)
    made.tree["evaluate"]["gate"]["champion"] = "0" * 32
    assert made.run()["gate_passed"] == 0
    assert "worse than the champion" in made.read("gate.json")["reasons"][1]


def test_a_champion_that_does_not_fit_is_a_reason_in_the_verdict(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = place(here, "binary")
    columns = (*made.signature.columns, SignatureColumn("age", "numeric", True))
    other = Signature("binary", "target", (0, 1), 0.5, columns)
    champion = made.bundle("champion", made.pipeline, other)
    monkeypatch.setattr(stage, "find_bundle", lambda _: champion)
    made.tree["evaluate"]["gate"]["champion"] = "0" * 32
    assert made.run()["gate_passed"] == 0
    assert "it needs age, which the data no longer have" in made.read("gate.json")["reasons"][1]


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        (Signature("multiclass", "target", (0, 1, 2), None), "it predicts target (multiclass)"),
        (Signature("binary", "target", ("no", "yes"), 0.5), "its classes are no, yes, not 0, 1"),
        (Signature("binary", "target", (0, 1), 0.5, (SignatureColumn("a", "categorical", True),)), "a changed between"),
    ],
)
def test_why_a_champion_does_not_fit_is_said(champion: Signature, reason: str) -> None:
    candidate = Signature("binary", "target", (0, 1), 0.5)
    said = stage.misfit(champion, candidate, pd.DataFrame({"a": [1.0]}))
    assert said is not None
    assert reason in said


def test_a_champion_that_is_not_here_is_an_error_because_dvc_would_keep_the_verdict(here: Path) -> None:
    made = place(here, "binary")
    made.tree["evaluate"]["gate"]["champion"] = "0" * 32
    with pytest.raises(ModelError, match="dvc pull"):
        made.run()


def test_an_empty_test_split_is_an_error_that_names_it(here: Path) -> None:
    made = place(here, "binary")
    path = here / "data/prepared/test.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)
    with pytest.raises(DataError, match=r"test\.parquet: no rows.*data\.split\.test"):
        made.run()


def test_an_empty_validation_split_leaves_its_figures_out(here: Path) -> None:
    made = place(here, "regression")
    path = here / "data/prepared/validation.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)
    assert set(made.run()["validation"].values()) == {None}


def test_a_test_split_of_one_class_has_nulls_and_does_not_pass(here: Path) -> None:
    made = place(here, "binary")
    path = here / "data/prepared/test.parquet"
    frame = pd.read_parquet(path)
    frame[frame["target"] == 0].reset_index(drop=True).to_parquet(path)
    metrics = made.run()
    assert metrics["test"]["roc_auc"] is None
    assert metrics["test"]["neg_log_loss"] < 0
    assert metrics["gate_passed"] == 0


def test_nothing_outside_the_listed_params_is_read(here: Path) -> None:
    config = place(here, "binary").config()
    with pytest.raises(AttributeError):
        _ = config.model
