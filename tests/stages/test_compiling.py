"""A compiled graph answers as scikit-learn does, on rows made to tell them apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from xgboost import XGBClassifier, XGBRegressor

from stages.compiling import Compiled, NotCompiled, check_rows, compile_pipeline, parity, trees
from stages.compiling.parity import Parity, run_graph

NUMERIC = ["gap", "count", "account"]
TEXT = ["carrier", "dest"]
TASKS = ("binary", "multiclass", "regression")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep OpenMP from spinning: the models here are too small for two threads."""
    with threadpool_limits(1):
        yield


def table(rows: int = 800, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    carriers = np.array(["AA", "UA", "DL", "", "é"], dtype=object)
    places = np.array([f"D{place}" for place in range(25)], dtype=object)
    table = pd.DataFrame(
        {
            "gap": random.normal(size=rows),
            "count": random.integers(0, 8, rows).astype(float),
            "account": random.integers(2**24, 2**24 + 500, rows).astype(float),
            "carrier": pd.Series(random.choice(carriers, rows), dtype=object),
            "dest": pd.Series(random.choice(places, rows, p=np.arange(1, 26) / 325), dtype=object),
        }
    )
    for column in ("gap", "count"):
        table.loc[random.random(rows) < 0.1, column] = np.nan
    return table


X = table()


def target(task: str) -> np.ndarray:
    random = np.random.default_rng(1)
    signal = X["gap"].fillna(0) + (X["carrier"] == "UA") + (X["account"] % 2) * 0.4
    noisy = (signal + random.normal(size=len(X)) * 0.3).to_numpy()
    if task == "binary":
        return np.asarray(noisy > 0.6, dtype=np.int64)
    if task == "multiclass":
        return np.asarray(np.digitize(noisy, [-0.3, 0.5, 1.2]))
    return np.asarray(np.clip(noisy * 10 + 50, 0.1, None))


def impute_scale() -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())


def ordinal() -> OrdinalEncoder:
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


FEATURES: dict[str, list[tuple[str, Any, list[str]]]] = {
    "ordinal": [("n", "passthrough", NUMERIC), ("c", ordinal(), TEXT)],
    "onehot-nan": [
        ("n", "passthrough", NUMERIC),
        ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXT),
    ],
    "onehot-scaled": [
        ("n", impute_scale(), NUMERIC),
        ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXT),
    ],
    "sparse": [
        ("c", OneHotEncoder(handle_unknown="ignore"), TEXT),
        ("n", SimpleImputer(strategy="median"), NUMERIC),
    ],
    "rare": [
        (
            "c",
            OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=30, sparse_output=False),
            TEXT,
        ),
        ("n", SimpleImputer(strategy="mean"), NUMERIC),
    ],
    "numeric-only": [("n", "passthrough", NUMERIC), ("c", ordinal(), [])],
    "text-only": [
        ("n", "passthrough", []),
        ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXT),
    ],
}
FILLED = ("onehot-scaled", "sparse", "rare", "text-only")
DENSE = tuple(name for name in FEATURES if name != "sparse")


def models(task: str) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Each estimator, and the features it can be fitted on."""
    forest: dict[str, Any] = {"n_estimators": 40, "max_depth": 7, "random_state": 0}
    light: dict[str, Any] = {"n_estimators": 25, "verbose": -1, "n_jobs": 1}
    extreme: dict[str, Any] = {"n_estimators": 25, "max_depth": 5, "n_jobs": 1}
    every = tuple(FEATURES)
    if task == "regression":
        return {
            "forest": (RandomForestRegressor(**forest), every),
            "histogram": (HistGradientBoostingRegressor(max_iter=25), DENSE),
            "poisson": (HistGradientBoostingRegressor(loss="poisson", max_iter=25), DENSE),
            "lightgbm": (LGBMRegressor(**light), every),
            "lightgbm-l1": (LGBMRegressor(objective="l1", **light), every),
            "xgboost": (XGBRegressor(**extreme), every),
            "xgboost-poisson": (XGBRegressor(objective="count:poisson", **extreme), every),
            "ridge": (Ridge(), FILLED),
            "linear": (LinearRegression(), FILLED),
            "dummy": (DummyRegressor(strategy="median"), every),
        }
    return {
        "forest": (RandomForestClassifier(**forest), every),
        "balanced": (RandomForestClassifier(class_weight="balanced", **forest), every),
        "histogram": (HistGradientBoostingClassifier(max_iter=25), DENSE),
        "lightgbm": (LGBMClassifier(**light), every),
        "xgboost": (XGBClassifier(**extreme), every),
        "logistic": (LogisticRegression(max_iter=2000), FILLED),
        "dummy": (DummyClassifier(), every),
    }


def fit(features: Any, model: Any, y: np.ndarray, rows: pd.DataFrame = X) -> Pipeline:
    transformer = features if hasattr(features, "fit") else ColumnTransformer(features)
    pipeline = clone(Pipeline([("features", transformer), ("model", model)]))
    with warnings.catch_warnings():  # lbfgs that stops early is a model like any other
        warnings.simplefilter("ignore")
        return pipeline.fit(rows, y)


def compiled(pipeline: Pipeline) -> bytes:
    answer = compile_pipeline(pipeline, X)
    assert isinstance(answer, Compiled), answer
    return answer.graph


def predicted(pipeline: Pipeline, rows: pd.DataFrame) -> np.ndarray:
    with warnings.catch_warnings():  # OneHotEncoder tells of unseen categories
        warnings.simplefilter("ignore")
        return np.asarray(pipeline.predict(rows))


def every_case() -> Iterator[Any]:
    for task in TASKS:
        for name, (model, kinds) in models(task).items():
            for kind in kinds:
                yield pytest.param(task, model, kind, id=f"{task}-{name}-{kind}")


@pytest.mark.parametrize(("task", "model", "kind"), list(every_case()))
def test_a_graph_agrees_with_sklearn_on_rows_made_to_break_it(task: str, model: Any, kind: str) -> None:
    pipeline = fit(FEATURES[kind], model, target(task))
    graph = compiled(pipeline)
    rows = check_rows(pipeline, X, rows=1200)
    result = parity(pipeline, graph, rows)
    assert result.exact, str(result)
    scores = run_graph(graph, rows)
    if task != "regression":
        labels = pipeline.classes_[np.argmax(scores, axis=1)]
        assert np.array_equal(labels, predicted(pipeline, rows))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["ordinal", "onehot-nan", "sparse"])
def test_a_forest_is_equal_to_the_last_bit_row_by_row_too(task: str, kind: str) -> None:
    pipeline = fit(FEATURES[kind], models(task)["forest"][0], target(task))
    graph = compiled(pipeline)
    rows = check_rows(pipeline, X, rows=1200)
    assert parity(pipeline, graph, rows).max_difference == 0.0
    one_by_one = np.vstack([run_graph(graph, rows.iloc[[place]]) for place in range(5)])
    assert np.array_equal(one_by_one, run_graph(graph, rows)[:5])


@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize("name", ["forest", "histogram", "lightgbm", "xgboost"])
def test_every_threshold_and_its_neighbours_go_the_same_way(name: str, task: str) -> None:
    model = {
        ("forest", "binary"): DecisionTreeClassifier(max_depth=8),
        ("forest", "regression"): RandomForestRegressor(n_estimators=1, bootstrap=False),
    }.get((name, task), models(task)[name][0])
    pipeline = fit([("n", "passthrough", ["gap"])], model, target(task))
    rows = check_rows(pipeline, X, rows=20_000)
    assert parity(pipeline, compiled(pipeline), rows).exact


def numbers() -> st.SearchStrategy[float]:
    width = st.one_of(st.floats(-1e30, 1e30), st.floats(-(2.0**99), 2.0**99, width=32))
    return st.one_of(width, st.just(np.nan), st.integers(-9, 9).map(float), st.just(2.0**24 + 1))


HOSTILE = st.lists(
    st.tuples(
        numbers(),
        numbers(),
        numbers(),
        st.one_of(st.sampled_from(["AA", "UA", "", "é"]), st.text(max_size=4)),
        st.one_of(st.sampled_from(["D1", "D24", "d1"]), st.text(max_size=4)),
    ),
    min_size=1,
    max_size=20,
)
HARD = [
    (task, name)
    for task in TASKS
    for name in ("forest", "histogram", "lightgbm", "xgboost", "logistic")
    if name in models(task)
]


@pytest.mark.parametrize(("task", "name"), HARD)
def test_generated_rows_agree_whatever_they_hold(task: str, name: str) -> None:
    kind = "onehot-scaled" if name == "logistic" else "ordinal"
    pipeline = fit(FEATURES[kind], models(task)[name][0], target(task))
    graph = compiled(pipeline)

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(HOSTILE)
    def agrees(rows: list[tuple[float, float, float, str, str]]) -> None:
        made = pd.DataFrame(rows, columns=NUMERIC + TEXT)
        made = made.astype(dict.fromkeys(NUMERIC, float) | dict.fromkeys(TEXT, object))
        result = parity(pipeline, graph, made)
        assert result.exact, str(result)

    agrees()


def test_the_graph_takes_one_tensor_a_kind_and_gives_scores_only() -> None:
    pipeline = fit(FEATURES["ordinal"], models("multiclass")["forest"][0], target("multiclass"))
    session = onnxruntime.InferenceSession(compiled(pipeline), providers=["CPUExecutionProvider"])
    kinds = {tensor.name: (tensor.type, tensor.shape) for tensor in session.get_inputs()}
    assert kinds == {
        "numeric": ("tensor(double)", ["n", len(NUMERIC)]),
        "text": ("tensor(string)", ["n", len(TEXT)]),
    }
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape) == ("scores", "tensor(double)", ["n", 4])


def test_columns_that_the_pipeline_drops_stay_inputs() -> None:
    pipeline = fit([("n", "passthrough", ["gap"])], models("binary")["forest"][0], target("binary"))
    session = onnxruntime.InferenceSession(compiled(pipeline), providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == ["numeric", "text"]


def test_the_same_pipeline_gives_the_same_bytes() -> None:
    pipeline = fit(FEATURES["rare"], models("binary")["lightgbm"][0], target("binary"))
    assert compiled(pipeline) == compiled(pipeline)
    assert compiled(clone(pipeline).fit(X, target("binary"))) == compiled(pipeline)


def test_labels_that_are_text_are_scored_in_the_order_of_classes() -> None:
    y = np.where(target("binary") == 1, "late", "early")
    pipeline = fit(FEATURES["ordinal"], models("binary")["forest"][0], y)
    assert parity(pipeline, compiled(pipeline), check_rows(pipeline, X)).exact


@pytest.mark.parametrize(
    "part",
    [
        ("c", OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False), TEXT),
        ("c", OneHotEncoder(drop="if_binary", handle_unknown="ignore", min_frequency=30), TEXT),
        ("c", OneHotEncoder(handle_unknown="warn", max_categories=6, sparse_output=False), TEXT),
        ("c", TargetEncoder(random_state=0), TEXT),
        (
            "c",
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, min_frequency=30),
            TEXT,
        ),
        (
            "c",
            make_pipeline(SimpleImputer(missing_values="", strategy="constant", fill_value="none"), ordinal()),
            TEXT,
        ),
        ("n", make_pipeline(SimpleImputer(strategy="constant"), MinMaxScaler()), NUMERIC),
        ("n", "passthrough", make_column_selector(dtype_include=float)),
        ("n", "passthrough", [0, 2]),
        ("n", "passthrough", [True, False, True, False, False]),
    ],
    ids=lambda part: str(part[1])[:40],
)
def test_other_transformers_agree_as_well(part: tuple[str, Any, Any]) -> None:
    features = [part, ("other", ordinal(), ["dest"])]
    pipeline = fit(features, DecisionTreeClassifier(max_depth=9), target("binary"))
    result = parity(pipeline, compiled(pipeline), check_rows(pipeline, X))
    assert result.exact, str(result)


def test_a_column_without_any_value_is_dropped_as_the_imputer_does() -> None:
    rows = X.assign(gap=np.nan)
    features = [("n", SimpleImputer(strategy="median", add_indicator=True), NUMERIC)]
    pipeline = fit(features, LogisticRegression(max_iter=500), target("binary"), rows)
    assert parity(pipeline, compiled(pipeline), rows).exact


def test_early_stopping_counts_only_the_trees_that_predict_uses() -> None:
    y = target("binary")
    features = ColumnTransformer(FEATURES["numeric-only"])
    encoded = features.fit_transform(X)
    shuffled = np.random.default_rng(0).permutation(y)
    model = XGBClassifier(n_estimators=60, early_stopping_rounds=3, n_jobs=1)
    model.fit(encoded, y, eval_set=[(encoded, shuffled)], verbose=False)
    assert model.best_iteration < 50
    pipeline = Pipeline([("features", features), ("model", model)])
    assert parity(pipeline, compiled(pipeline), check_rows(pipeline, X)).exact


def test_a_tiny_number_is_zero_to_lightgbm_and_to_its_graph() -> None:
    zero = float(np.float32(1e-35))
    rows = X.assign(gap=np.where(np.arange(len(X)) % 2, 0.0, X["gap"].fillna(0)))
    pipeline = fit(
        [("n", "passthrough", ["gap"])],
        models("regression")["lightgbm"][0],
        np.sign(rows["gap"].to_numpy()),
        rows,
    )
    beside = [-2 * zero, np.nextafter(-zero, -1), -zero, -zero / 2, -5e-324, -0.0]
    tried = X.head(12).assign(gap=[*beside, *(-value for value in beside)])
    assert parity(pipeline, compiled(pipeline), tried).exact


class Custom(RandomForestClassifier):  # type: ignore[misc]
    """Computes something of its own, for all that anybody knows."""


FEW: dict[str, Any] = {"n_estimators": 3, "verbose": -1, "n_jobs": 1}
LIGHT_FOREST = LGBMClassifier(boosting_type="rf", subsample=0.5, subsample_freq=1, **FEW)
LIGHT_ZERO = LGBMClassifier(zero_as_missing=True, **FEW)


@pytest.mark.parametrize(
    ("features", "model", "words"),
    [
        ("ordinal", Custom(n_estimators=2), "Custom is not compiled"),
        ("rare", GradientBoostingClassifier(n_estimators=2), "GradientBoostingClassifier"),
        ("ordinal", HistGradientBoostingClassifier(categorical_features=[3]), "categorical"),
        ("ordinal", LIGHT_FOREST, "boosting_type"),
        ("ordinal", LIGHT_ZERO, "zero_as_missing"),
        ("ordinal", XGBClassifier(booster="dart", n_estimators=2, n_jobs=1), "dart"),
        ("rare", XGBClassifier(booster="gblinear", n_estimators=2, n_jobs=1), "gblinear"),
        ("ordinal", DummyClassifier(strategy="stratified"), "random"),
        ([("c", OneHotEncoder(), TEXT)], DummyClassifier(strategy="uniform"), "random"),
        ([("c", OneHotEncoder(), TEXT)], LogisticRegression(), "unseen category"),
        ([("c", OrdinalEncoder(), TEXT)], LogisticRegression(), "unseen category"),
        ([("n", PolynomialFeatures(), ["account"])], DecisionTreeClassifier(), "Polynomial"),
        (StandardScaler(), DecisionTreeClassifier(), "not a ColumnTransformer"),
    ],
)
def test_what_is_not_compiled_says_why(features: Any, model: Any, words: str) -> None:
    chosen = FEATURES[features] if isinstance(features, str) else features
    rows = X if not isinstance(features, StandardScaler) else X[NUMERIC]
    answer = compile_pipeline(fit(chosen, model, target("binary"), rows), rows)
    assert isinstance(answer, NotCompiled)
    assert words in answer.reason


def test_two_targets_are_not_compiled() -> None:
    y = np.column_stack([target("regression"), target("regression") * 2])
    for model in (Ridge(), RandomForestRegressor(n_estimators=2), XGBRegressor(n_estimators=2, n_jobs=1)):
        answer = compile_pipeline(fit(FEATURES["rare"], model, y), X)
        assert answer == NotCompiled("The model has more than one target.")


def test_a_pipeline_that_is_not_fitted_is_not_compiled() -> None:
    features = ColumnTransformer(FEATURES["ordinal"])
    pipeline = Pipeline([("features", features), ("model", RandomForestClassifier())])
    assert isinstance(compile_pipeline(pipeline, X), NotCompiled)


def test_parity_sees_a_graph_of_another_model() -> None:
    pipeline = fit(FEATURES["ordinal"], models("binary")["forest"][0], target("binary"))
    other = fit(FEATURES["ordinal"], DecisionTreeClassifier(), target("binary"))
    result = parity(pipeline, compiled(other), check_rows(pipeline, X))
    assert not result.exact
    assert result.labels_different > 0
    assert "not exact" in str(result)
    many = fit(FEATURES["ordinal"], DecisionTreeClassifier(), target("multiclass"))
    assert not parity(pipeline, compiled(many), X).exact


@pytest.mark.parametrize("mistake", ["no cast", "always left", "strictly less"])
def test_check_rows_catch_the_mistakes_that_converters_make(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fit(FEATURES["ordinal"], models("binary")["forest"][0], target("binary"))
    right = trees.forest(pipeline.steps[-1][1])
    wrong = {
        "no cast": replace(right, inputs=np.float64),
        "always left": replace(
            right,
            trees=tuple(replace(t, missing_left=np.ones_like(t.left)) for t in right.trees),
        ),
        "strictly less": replace(right, mode=trees.LT),
    }[mistake]
    monkeypatch.setattr(trees, "forest", lambda _: wrong)
    graph = compiled(pipeline)
    monkeypatch.undo()
    result = parity(pipeline, graph, check_rows(pipeline, X))
    assert not result.exact, str(result)


def test_no_rows_prove_nothing() -> None:
    pipeline = fit(FEATURES["ordinal"], DecisionTreeClassifier(), target("binary"))
    assert parity(pipeline, compiled(pipeline), X.head(0)) == Parity(0, 0, 0.0, exact=False)


def test_check_rows_hold_what_breaks_graphs_and_are_the_same_each_time() -> None:
    pipeline = fit(FEATURES["ordinal"], models("binary")["forest"][0], target("binary"))
    rows = check_rows(pipeline, X, rows=1000)
    assert len(rows) == 1000
    assert list(rows.columns) == list(X.columns)
    assert (rows.dtypes == X.dtypes).all()
    assert rows.equals(check_rows(pipeline, X, rows=1000))
    assert not rows.equals(check_rows(pipeline, X, rows=1000, seed=1))
    assert rows["account"].isna().any()
    assert {"", "unseen"} <= set(rows["carrier"])
    assert (rows["gap"].abs() == 1e30).any()
    assert not np.isinf(rows[NUMERIC]).any(axis=None)
    forest = pipeline.steps[-1][1].estimators_
    known = {t for tree in forest for t in tree.tree_.threshold[tree.tree_.feature == 0]}
    assert len(known & set(rows["gap"])) > 10


def test_check_rows_leave_out_what_the_pipeline_rejects() -> None:
    rows = X.dropna()
    y = target("binary")[rows.index]
    pipeline = fit([("n", "passthrough", NUMERIC)], LogisticRegression(), y, rows)
    made = check_rows(pipeline, rows)
    assert not made[NUMERIC].isna().any(axis=None)
    assert parity(pipeline, compiled(pipeline), made).exact


def test_check_rows_are_made_for_a_pipeline_that_is_not_compiled_too() -> None:
    pipeline = fit(FEATURES["rare"], GradientBoostingClassifier(n_estimators=3), target("binary"))
    assert len(check_rows(pipeline, X.head(7), rows=50)) == 50
