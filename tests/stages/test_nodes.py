from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config import Task
from stages.errors import ConfigError
from stages.nodes import CALLED, PASSED, build, build_pipeline, problems, task_problem, walk

TARGETS = ["sklearn", "stages"]
DUMMY = "sklearn.dummy.DummyClassifier"
BINARY = Task(name="binary", estimator="Classifier", primary="roc_auc", metrics=("roc_auc",))

# Each would reach a function outside the allowlist if only the start of its name were looked at.
WAYS_OUT: list[Any] = [
    {"_target_": "os.getcwd"},
    {"_target_": "sklearnish.Thing"},
    {"_target_": "sklearn.datasets._base.os.getcwd"},
    {"_target_": "sklearn.datasets._base.urlretrieve", "url": "file:///dev/null"},
    {"_target_": "sklearn.utils.os.system"},
    {"_target_": "stages.files.shutil.which", "cmd": "ls"},
    {"_target_": "stages.files.tempfile"},
    {"_target_": "stages.provenance.subprocess.run", "args": ["true"]},
    {"_target_": f"{DUMMY}.__init__.__globals__.get"},
    {"_target_": "sklearn"},
    {"_target_": "sklearn."},
    {"_target_": "sklearn..os"},
    {"_target_": ".os.getcwd"},
    {"_target_": "..sklearn.os"},
    {"_target_": ""},
    {"_target_": None},
    {"_target_": ["sklearn"]},
    {"_target_": {"_target_": "os.getcwd"}},
    {"_target_": "sklearn.utils.${oc.env:HOME}"},
    {"_target_": "hydra.utils.get_method", "path": "os.getcwd"},
    {"_target_": "builtins.eval", "_args_": ["1"]},
    {"_target_": DUMMY, "strategy": {"_target_": "os.getcwd"}},
    {"_target_": DUMMY, "strategy": "${oc.create:{_target_:os.getcwd}}"},
    {"_target_": DUMMY, "_args_": [{"_target_": "os.getcwd"}]},
    {"_target_": DUMMY, "_args_": [[[{"deep": ({"_target_": "os.getcwd"},)}]]]},
    {"_target_": DUMMY, "_recursive_": False, "strategy": {"_target_": "os.getcwd"}},
    {"_target_": DUMMY, "_partial_": True, "strategy": {"_target_": "os.getcwd"}},
    # what runs commands, reads pickles or fetches, under an allowed name
    {"_target_": "stages.provenance._git", "_args_": ["-c", "alias.x=!touch pwned", "x"]},
    {"_target_": "stages.provenance.provenance"},
    {"_target_": "stages.errors.run_stage", "main": {"_target_": "stages.configure.check", "_partial_": True}},
    {"_target_": "sklearn.utils._testing.assert_run_python_script_without_output", "source_code": "open('pwned', 'w')"},
    {"_target_": "sklearn.utils._testing.TempMemmap", "data": [1]},
    {"_target_": "sklearn.datasets.load_files", "container_path": "."},
    {"_target_": "sklearn.datasets.fetch_openml", "name": "iris"},
    {"_target_": "sklearn.datasets.load_iris"},
    {"_target_": "sklearn.show_versions"},
    {"_target_": "sklearn.clone", "estimator": {"_target_": DUMMY}},
    {"_target_": "sklearn.utils.Bunch"},
    {"_target_": "sklearn.utils.parallel.delayed", "function": "x"},
    {"_target_": "lightgbm.Booster", "model_file": "x"},
    {"_target_": "lightgbm.train", "params": {}},
    {"_target_": "xgboost.Booster", "model_file": "x"},
    {"_target_": "hydra.utils.get_class", "path": "os.getcwd"},
    {"_target_": "hydra.utils.call", "config": {}},
    {"_target_": "joblib.load", "filename": "x"},
    {"_target_": "joblib.Memory", "location": "x"},
    {"_target_": "numpy.load", "file": "x"},
    {"_target_": "scipy.stats.rv_continuous", "shapes": "a"},
    {"_target_": "scipy.stats.sampling.TransformedDensityRejection", "dist": "x"},
    {"_target_": "subprocess.Popen", "args": ["touch", "pwned"]},
    {"_target_": "antigravity.webbrowser"},
    {"_target_": "test.autotest.main"},
    {"_target_": "sklearn.preprocessing.FunctionTransformer", "func": {"_target_": "os.system", "_partial_": True}},
    {"_target_": "sklearn.preprocessing.FunctionTransformer", "func": {"_target_": "numpy.save", "_partial_": True}},
    {
        "_target_": "sklearn.preprocessing.FunctionTransformer",
        "func": {"_target_": "sklearn.show_versions", "_partial_": True},
    },
    {"_target_": "sklearn.pipeline.Pipeline", "steps": [["a", {"_target_": DUMMY}]], "memory": "conf/cache"},
    {"_target_": "sklearn.decomposition._pca.PCA"},
    {"_target_": "sklearn.feature_selection.chi2", "X": [[1]], "y": [1]},
    {"_target_": DUMMY, "_partial_": True},
    {"_target_": DUMMY, "_partial_": "true"},
]
EVERY_LIBRARY = ["sklearn", "stages", "lightgbm", "xgboost", "scipy", "numpy", "joblib", "hydra", "os", "subprocess"]
EVERY_LIBRARY += ["builtins", "antigravity", "test", "conf", "data"]


@pytest.mark.parametrize("node", WAYS_OUT, ids=str)
def test_the_allowlist_has_no_way_out(node: Any) -> None:
    assert problems("model", node, TARGETS)
    with pytest.raises(ConfigError):
        build(node, TARGETS)


@pytest.mark.parametrize("node", WAYS_OUT, ids=str)
def test_no_prefix_that_a_config_adds_makes_a_way_out(
    node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert problems("model", node, EVERY_LIBRARY)
    with pytest.raises(ConfigError):
        build(node, EVERY_LIBRARY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["conf", "data"])
def test_a_python_file_beside_the_configuration_is_not_run(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "evil.py").write_text("open('pwned', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (said,) = problems("model", {"_target_": f"{folder}.evil.Model"}, [folder])
    assert "in no library of estimators" in said
    assert not Path("pwned").exists()


def test_an_estimator_of_ones_own_is_built_once_its_package_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_models").mkdir()
    (tmp_path / "own_models/own.py").write_text(
        "from sklearn.dummy import DummyClassifier\nclass Own(DummyClassifier): pass\ndef own(): return Own()\n"
    )
    (tmp_path / "own_models/broken.py").write_text("raise AttributeError('half written')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert problems("model", {"_target_": "own_models.own.Own"}, TARGETS)
    assert problems("model", {"_target_": "own_models.own.Own"}, [*TARGETS, "own_models"]) == []
    assert type(build({"_target_": "own_models.own.Own"}, ["own_models"])).__name__ == "Own"
    assert "conf/ can build nothing else" in problems("model", {"_target_": "own_models.own.own"}, ["own_models"])[0]
    assert (
        "cannot be imported (half written)" in problems("model", {"_target_": "own_models.broken.X"}, ["own_models"])[0]
    )


BUILT: list[dict[str, Any]] = [
    {"_target_": "sklearn.gaussian_process.kernels.RBF", "length_scale": 2.0},
    {"_target_": "sklearn.model_selection.RepeatedStratifiedKFold", "n_splits": 2},
    {"_target_": "sklearn.model_selection.ShuffleSplit"},
    {"_target_": "sklearn.feature_selection.SelectKBest", "k": 1},
    {"_target_": "sklearn.metrics.make_scorer", "beta": 2,
     "score_func": {"_target_": "sklearn.metrics.fbeta_score", "_partial_": True}},
    {"_target_": "sklearn.preprocessing.FunctionTransformer"},
    {"_target_": "lightgbm.LGBMClassifier"},
]  # fmt: skip


@pytest.mark.parametrize("node", BUILT, ids=lambda node: node["_target_"])
def test_what_computes_can_be_built(node: dict[str, Any]) -> None:
    assert problems("model", node, [*TARGETS, "lightgbm"]) == []
    assert build(node, [*TARGETS, "lightgbm"]) is not None


@pytest.mark.parametrize("name", [*PASSED, *CALLED])
def test_every_function_that_may_be_named_is_there_and_is_no_class(name: str) -> None:
    node = {"_target_": name, **({"_partial_": True} if name in PASSED else {})}
    assert problems("model", node, TARGETS) == []
    assert inspect.isfunction(inspect.unwrap(getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])))


def test_a_function_is_handed_on_and_never_called() -> None:
    (said,) = problems("model", {"_target_": "sklearn.metrics.fbeta_score"}, TARGETS)
    assert said == "model._partial_: sklearn.metrics.fbeta_score is handed on, not called; say `_partial_: true`"


def test_a_cache_of_pickles_is_refused_also_among_the_values_of_a_search() -> None:
    search = {
        "_target_": "sklearn.model_selection.GridSearchCV",
        "param_grid": {"features__numeric__memory": ["conf/cache"], "model__C": [1.0]},
    }
    (said,) = problems("train.search", search, TARGETS)
    assert said.startswith("train.search.param_grid.features__numeric__memory: a cache is read as pickles")
    assert problems("model", {"_target_": "sklearn.pipeline.Pipeline", "steps": [], "memory": None}, TARGETS) == []


KEYS = st.sampled_from(["_args_", "a", "steps", "_convert_"])
OUTSIDE = st.just({"_target_": "os.getcwd"})
ONE_DEEP = OUTSIDE | st.lists(OUTSIDE, min_size=1, max_size=2) | st.dictionaries(KEYS, OUTSIDE, min_size=1, max_size=2)
DEEP = ONE_DEEP | st.lists(ONE_DEEP, min_size=1, max_size=2) | st.dictionaries(KEYS, ONE_DEEP, min_size=1, max_size=2)


@given(DEEP)
def test_a_node_outside_the_allowlist_is_found_however_deep_it_lies(tree: Any) -> None:
    node = {"_target_": DUMMY, "strategy": tree}
    assert any("'os.getcwd' is outside the allowed modules" in said for said in problems("model", node, TARGETS))
    with pytest.raises(ConfigError, match="outside the allowed modules"):
        build(node, TARGETS)


def test_build_names_every_target_that_is_not_allowed_and_where() -> None:
    node = {"_target_": DUMMY, "strategy": {"_target_": "os.getcwd"}, "constant": {"_target_": "os.getpid"}}
    with pytest.raises(ConfigError) as caught:
        build(node, TARGETS)
    assert "node.strategy._target_: 'os.getcwd'" in str(caught.value)
    assert "node.constant._target_: 'os.getpid'" in str(caught.value)


def test_what_is_defined_elsewhere_can_be_used_once_that_module_is_allowed() -> None:
    node = {"_target_": "scipy.stats.randint", "low": 1, "high": 9}
    assert problems("train", node, TARGETS)
    assert problems("train", node, [*TARGETS, "scipy"]) == []
    assert 1 <= build(node, [*TARGETS, "scipy"]).rvs(random_state=0) < 9


def test_nested_nodes_are_built_inside_out() -> None:
    node = {
        "_target_": "sklearn.ensemble.BaggingClassifier",
        "estimator": {"_target_": DUMMY, "strategy": "prior"},
        "n_estimators": 2,
    }
    assert problems("model", node, TARGETS) == []
    assert build(node, TARGETS).estimator.strategy == "prior"


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"_target_": "sklearn.dummy.DumyClassifier"}, "sklearn.dummy has no 'DumyClassifier' (did you mean 'Dummy"),
        ({"_target_": "sklearn.dumy.DummyClassifier"}, "'sklearn.dumy.DummyClassifier' cannot be imported"),
        ({"_target_": DUMMY, "stratgy": "prior"}, "no such parameter (did you mean 'strategy'?); allowed are strategy"),
        ({"_target_": DUMMY, "strategy": "best"}, "Got 'best' instead"),
    ],
)
def test_a_node_that_scikit_learn_would_refuse_is_told_before_anything_is_built(
    node: dict[str, Any], said: str
) -> None:
    (problem,) = problems("model", node, TARGETS)
    assert said in problem
    assert problem.startswith("model.")


def test_a_class_that_takes_any_keyword_is_refused_only_near_misses() -> None:
    xgboost = {"_target_": "xgboost.XGBClassifier"}
    assert problems("model", {**xgboost, "some_new_option": 1}, ["xgboost"]) == []
    (problem,) = problems("model", {**xgboost, "n_estimator": 1}, ["xgboost"])
    assert "did you mean 'n_estimators'?" in problem


def test_a_model_of_the_other_task_is_refused_with_one_that_fits() -> None:
    assert task_problem({"_target_": DUMMY}, BINARY, TARGETS) is None
    said = task_problem({"_target_": "sklearn.linear_model.Ridge"}, BINARY, TARGETS)
    assert said is not None
    assert "is no classifier" in said
    assert "try model=logistic_regression" in said


def test_transformers_of_no_column_are_left_out() -> None:
    features = {
        "_target_": "sklearn.compose.ColumnTransformer",
        "transformers": [
            ["numeric", "passthrough", ["a"]],
            ["categorical", {"_target_": "sklearn.preprocessing.OneHotEncoder"}, []],
        ],
    }
    pipeline = build_pipeline(features, {"_target_": DUMMY}, TARGETS)
    assert [name for name, _, _ in pipeline.named_steps["features"].transformers] == ["numeric"]


def test_features_may_be_any_transformer() -> None:
    pipeline = build_pipeline({"_target_": "sklearn.preprocessing.StandardScaler"}, {"_target_": DUMMY}, TARGETS)
    assert [type(step).__name__ for _, step in pipeline.steps] == ["StandardScaler", "DummyClassifier"]


def test_walk_tells_where_each_node_is() -> None:
    tree = {"_target_": "a", "steps": [["x", {"_target_": "b"}]], "plain": {"c": 1}}
    assert [path for path, _ in walk(tree, ("model",))] == [("model",), ("model", "steps", "0", "1")]
