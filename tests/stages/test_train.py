"""Every model of conf/ trains to a bundle that answers as scikit-learn does, the same bytes each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from stages.bundle import Signature, open_bundle, sklearn_scores
from stages.compiling import parity
from stages.config import Config, validate
from stages.configure import compose_tree
from stages.dataset import Split, read_split
from stages.errors import ConfigError, ModelError
from stages.files import read_json
from stages.ingest import ingest
from stages.prepare import prepare
from stages.train import CHECKED, best_threshold, compile_exactly, confusion_counts, describe, fit, main, write_bundle
from stages.versions import pin

ROOT = Path(__file__).parents[2]
SMALL = {
    "random_forest": ["model.n_estimators=12", "model.n_jobs=1"],
    "hist_gradient_boosting": ["model.max_iter=12"],
    "lightgbm": ["model.n_estimators=12", "model.n_jobs=1"],
    "xgboost": ["model.n_estimators=12", "model.n_jobs=1"],
}
CLASSIFIERS = ("random_forest", "hist_gradient_boosting", "logistic_regression", "lightgbm", "xgboost", "dummy")
REGRESSORS = ("random_forest", "hist_gradient_boosting", "ridge", "lightgbm", "xgboost", "dummy")
FITTING = [
    *(("breast_cancer", model) for model in CLASSIFIERS),
    *(("wine", model) for model in CLASSIFIERS if model != "xgboost"),  # its labels are text
    *(("diabetes", model) for model in REGRESSORS),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@cache
def config(data: str, *overrides: str) -> Config:
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        return validate(compose_tree([f"data={data}", "engine.threads=1", *overrides])[0])
    finally:
        os.chdir(here)


def model(data: str, name: str) -> Config:
    return config(data, f"model={name}", *SMALL.get(name, []))


Prepared = Callable[[str], Path]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The prepared splits of a data set of conf/, made once."""
    folder = tmp_path_factory.mktemp("data")

    def made(data: str) -> Path:
        out = folder / data
        if not out.exists():
            setting = config(data)
            query = (ROOT / setting.data.query).read_text(encoding="utf-8")
            here = Path.cwd()
            os.chdir(folder)
            try:
                ingest(setting.data.tables, folder / f"{data}-raw")
                prepare(setting, query, out, folder / f"{data}-raw")
            finally:
                os.chdir(here)
        return out

    return made


def splits(setting: Config, folder: Path) -> tuple[Split, Split]:
    columns, task = setting.data.columns, setting.data.task
    return read_split(columns, task, "train", folder), read_split(columns, task, "validation", folder)


ORIGIN = {"params": {"data": {"name": "tests"}, "model": {"_target_": "x"}}, "data": {}, "code": "0" * 32}


def trained(setting: Config, train: Split, validation: Split, out: Path) -> tuple[Pipeline, Signature, str]:
    pipeline = fit(setting, train)
    signature = describe(setting, pipeline, train, validation)
    return pipeline, signature, write_bundle(out, pipeline, signature, ORIGIN, train)


@pytest.mark.parametrize(("data", "name"), FITTING)
def test_a_model_trains_and_its_bundle_answers_as_scikit_learn(
    data: str, name: str, prepared: Prepared, tmp_path: Path
) -> None:
    setting = model(data, name)
    train, validation = splits(setting, prepared(data))
    pipeline, signature, said = trained(setting, train, validation, tmp_path / "model")
    opened = open_bundle(tmp_path / "model")
    assert opened.signature == signature
    assert said.startswith("compiled, exact") == opened.compiled
    assert opened.compiled, said
    expected = sklearn_scores(pipeline, validation.X)
    np.testing.assert_allclose(opened.scores(validation.X), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(sklearn_scores(opened.fitted, validation.X), expected)
    if signature.classes is None:
        np.testing.assert_allclose(opened.predict(validation.X), pipeline.predict(validation.X), rtol=1e-6)
        with pytest.raises(ModelError, match="a regression has no class probabilities"):
            opened.predict_proba(validation.X)
    else:
        np.testing.assert_allclose(opened.predict_proba(validation.X), pipeline.predict_proba(validation.X), atol=1e-6)
        assert set(opened.predict(validation.X)) <= set(signature.classes)
    if data == "wine":
        np.testing.assert_array_equal(opened.predict(validation.X), pipeline.predict(validation.X))


TWICE = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_train import *
from stages.bundle import bundle_md5
with threadpool_limits(1):
    for data, name in {models!r}:
        setting = model(data, name)
        train, validation = splits(setting, Path({prepared!r}) / data)
        trained(setting, train, validation, Path(sys.argv[1]) / data / name)
        print(data, name, bundle_md5(Path(sys.argv[1]) / data / name), flush=True)
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    models = [("breast_cancer", name) for name in CLASSIFIERS] + [("diabetes", name) for name in ("ridge", "lightgbm")]
    folder = {prepared(data).parent for data, _ in models}.pop()
    script = TWICE.format(root=str(ROOT), tests=str(Path(__file__).parent), models=models, prepared=str(folder))
    said = []
    for seed in ("1", "2"):
        command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / seed)]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert len(said[0].splitlines()) == len(models)
    assert said[0] == said[1]


def test_training_never_reads_the_test_split(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared("breast_cancer")
    monkeypatch.chdir(ROOT)
    _, text, _ = compose_tree(["data=breast_cancer", *SMALL["random_forest"]])
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    Path("params.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(folder, "data/prepared")
    pin()
    main()
    with_test = open_bundle("data/model").signature
    for name in ("test", "current", "quarantine", "unlabelled"):
        Path(f"data/prepared/{name}.parquet").unlink()
    main()
    assert open_bundle("data/model").signature == with_test
    assert with_test.threshold is not None


def test_no_row_that_leaves_with_the_bundle_is_a_row_of_the_data(prepared: Prepared, tmp_path: Path) -> None:
    setting = model("breast_cancer", "random_forest")
    train, validation = splits(setting, prepared("breast_cancer"))
    _, signature, _ = trained(setting, train, validation, tmp_path / "model")
    inputs = read_json(tmp_path / "model/check.json")["inputs"]
    assert set(inputs) == {column.name for column in signature.columns}
    rows = pd.DataFrame(inputs, dtype="float64")[list(train.X.columns)]
    assert len(rows) == CHECKED
    matching = (rows.to_numpy()[:, None, :] == train.X.to_numpy()[None, :, :]).sum(axis=2)
    assert matching.max() < len(train.X.columns) / 2  # nor most of one
    assert rows.isna().to_numpy().any()
    assert (rows.gt(train.X.max()) | rows.lt(train.X.min())).to_numpy().any()


# --- threshold


def scored(rows: int = 2000, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    positive = random.random(rows) < 0.25
    return np.clip(random.beta(2, 5, rows) + 0.2 * positive, 0, 1), positive


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "precision", "matthews_corrcoef"])
def test_no_other_quantile_of_the_scores_is_a_better_cut(metric: str) -> None:
    from sklearn.metrics import get_scorer

    probability, positive = scored()
    best = best_threshold(metric, probability, positive)
    cuts = np.quantile(probability, np.linspace(0.005, 0.995, 100), method="lower")
    measure = get_scorer(metric)._score_func
    values = [measure(positive, probability > cut) for cut in cuts]
    assert measure(positive, probability > best) >= max(values)
    assert best not in probability


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-12])
def test_the_cut_does_not_hang_on_how_large_probabilities_are(scale: float) -> None:
    probability, positive = scored()
    said = probability * scale > best_threshold("f1", probability * scale, positive)
    assert np.array_equal(said, probability > best_threshold("f1", probability, positive))


def test_positives_among_the_highest_of_very_many_rows_have_a_cut_of_their_own() -> None:
    probability = np.linspace(0, 1e-4, 100_000)
    positive = np.arange(100_000) >= 99_990
    said = probability > best_threshold("f1", probability, positive)
    assert 9 <= said.sum() <= 10
    assert positive[said].all()


def test_a_threshold_of_zero_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []

    def watched(*given: Any, threshold: float) -> Any:
        held.append(threshold)
        return parity(*given, threshold=threshold)

    monkeypatch.setattr("stages.train.parity", watched)
    train, validation = worded()
    setting = for_words("model=logistic_regression")
    pipeline = fit(setting, train)
    compile_exactly(pipeline, replace(describe(setting, pipeline, train, validation), threshold=0.0), train)
    assert held == [0.0]


def test_a_cut_has_as_few_digits_as_fit_between_two_probabilities() -> None:
    assert (
        best_threshold("f1", np.array([0.123456, 0.123456, 0.4567, 0.4567]), np.array([False, False, True, True]))
        == 0.3
    )


def test_the_counts_behind_the_cuts_are_those_of_the_rows() -> None:
    probability, positive = scored(500)
    cuts = np.array([0.1, float(probability[3]), 0.9])
    for cut, counts in zip(cuts, confusion_counts(probability, positive, cuts), strict=True):
        said = probability > cut
        expected = [
            (~positive & ~said).sum(),
            (~positive & said).sum(),
            (positive & ~said).sum(),
            (positive & said).sum(),
        ]
        assert counts.tolist() == expected


def test_a_metric_that_cannot_choose_a_cut_is_told() -> None:
    with pytest.raises(ConfigError, match=r"train.threshold: 'f2' is not the name of a scikit-learn scorer"):
        best_threshold("f2", *scored())
    for metric in ("roc_auc", "neg_log_loss"):
        with pytest.raises(ConfigError, match=rf"train.threshold: '{metric}' cannot choose a cut"):
            best_threshold(metric, *scored())


def test_scores_that_are_all_the_same_have_a_cut() -> None:
    positive = np.arange(100) % 4 == 0
    assert best_threshold("f1", np.full(100, 0.25), positive) == 0.25
    assert best_threshold("precision", np.full(100, 0.25), positive) == 0.25


def worded(rows: int = 600) -> tuple[Split, Split]:
    """A table with labels yes and no; yes is rarer."""
    random = np.random.default_rng(0)
    X = pd.DataFrame({"size": random.normal(size=rows), "colour": random.choice(["red", "blue", ""], rows)})
    X["colour"] = X["colour"].astype("object")
    y = np.where(X["size"] + random.normal(size=rows) > 1, "yes", "no").astype("object")
    halves = (slice(0, rows // 2), slice(rows // 2, rows))
    first, second = (
        Split(X[half].reset_index(drop=True), y[half], None, pd.DataFrame(), pd.DataFrame()) for half in halves
    )
    return first, second


def for_words(*overrides: str) -> Config:
    setting = config("breast_cancer", *overrides)
    column = next(iter(setting.data.columns.numeric.values()))
    columns = setting.data.columns.model_copy(
        update={"numeric": {"size": column}, "categorical": {"colour": column}, "target": "answer"}
    )
    transformers = [
        [name, node, ["size"] if name == "numeric" else ["colour"]]
        for name, node, _ in setting.features["transformers"]
    ]
    return setting.model_copy(
        update={
            "data": setting.data.model_copy(update={"columns": columns}),
            "features": {**setting.features, "transformers": transformers},
        }
    )


@pytest.mark.parametrize(("metric", "measure"), [("f1", f1_score), ("balanced_accuracy", balanced_accuracy_score)])
@pytest.mark.parametrize("name", ["random_forest", "logistic_regression", "lightgbm"])
def test_labels_of_text_get_a_threshold_for_the_positive_one(
    name: str, metric: str, measure: Callable[[Any, Any], float], tmp_path: Path
) -> None:
    train, validation = worded()
    setting = for_words(f"model={name}", f"train.threshold={metric}", *SMALL.get(name, []))
    pipeline, signature, _ = trained(setting, train, validation, tmp_path / "model")
    assert signature.classes == ("no", "yes")
    assert signature.threshold is not None
    answers = open_bundle(tmp_path / "model").predict(validation.X)
    assert {type(answer) for answer in answers} == {str}
    here = measure(validation.y == "yes", answers == "yes")
    half = measure(validation.y == "yes", pipeline.predict_proba(validation.X)[:, 1] > 0.5)
    assert here >= half


def test_a_model_that_cannot_take_the_labels_says_so() -> None:
    train, _ = worded()
    with pytest.raises(ModelError, match=r"xgboost.XGBClassifier could not be fitted: Invalid classes.*let the query"):
        fit(for_words("model=xgboost", *SMALL["xgboost"]), train)


def test_a_value_that_the_estimator_refuses_is_told() -> None:
    train, _ = worded()
    setting = for_words("model=random_forest", *SMALL["random_forest"])
    wrong = setting.model_copy(update={"model": {**setting.model, "max_depth": -3}})
    with pytest.raises(ModelError, match=r"RandomForestClassifier could not be fitted: The 'max_depth' parameter"):
        fit(wrong, train)


def test_a_search_gives_its_best_pipeline(prepared: Prepared, tmp_path: Path) -> None:
    setting = config(
        "breast_cancer", "train=search", "model=random_forest", "model.n_jobs=1", "train.search.n_iter=3",
        "train.search.cv.n_splits=2", "train.search.param_distributions={model__max_depth: [1, 2], "
        "model__n_estimators: [3, 5]}",
    )  # fmt: skip
    train, validation = splits(setting, prepared("breast_cancer"))
    pipeline, _, said = trained(setting, train, validation, tmp_path / "model")
    found = pipeline.named_steps["model"].get_params()
    assert found["max_depth"] in (1, 2)
    assert found["n_estimators"] in (3, 5)
    assert said.startswith("compiled, exact")


def test_without_a_threshold_metric_the_cut_is_a_half(prepared: Prepared) -> None:
    setting = config("breast_cancer", "model=dummy", "train.threshold=null")
    train, validation = splits(setting, prepared("breast_cancer"))
    signature = describe(setting, fit(setting, train), train, validation)
    assert signature.threshold is None
    assert replace(signature, threshold=0.5).classes == (0, 1)
