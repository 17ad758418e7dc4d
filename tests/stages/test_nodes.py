from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config import Task
from stages.errors import ConfigError
from stages.nodes import build, build_pipeline, problems, task_problem, walk

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
]


@pytest.mark.parametrize("node", WAYS_OUT, ids=str)
def test_the_allowlist_has_no_way_out(node: Any) -> None:
    assert problems("model", node, TARGETS)
    with pytest.raises(ConfigError):
        build(node, TARGETS)


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
