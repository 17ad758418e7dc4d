from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.adopt import _set as put  # the text editor is the part that can lose somebody's comments
from stages.adopt import adopt, differences
from stages.configure import check, compose_tree
from stages.configure import main as configure
from stages.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/config.yaml").write_text(
        (CONF / "config.yaml").read_text(encoding="utf-8").replace("data: flights", "data: breast_cancer"),
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


def applied(*overrides: str) -> str:
    """params.yaml as an experiment with these overrides leaves it."""
    text = compose_tree(overrides)[1]
    Path("params.yaml").write_text(text, encoding="utf-8")
    return text


def snapshot(conf: Path) -> dict[str, str]:
    return {str(path.relative_to(conf)): path.read_text(encoding="utf-8") for path in sorted(conf.rglob("*.yaml"))}


def changed_lines(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[list[str], list[str]]]:
    """file: (lines that went, lines that came)."""
    found = {}
    for name in before:
        lines = list(difflib.ndiff(before[name].splitlines(), after[name].splitlines()))
        gone, come = ([line[2:] for line in lines if line.startswith(sign)] for sign in ("- ", "+ "))
        if gone or come:
            found[name] = (gone, come)
    return found


OVERRIDES = [
    ["model.n_estimators=7", "model.max_depth=3"],
    ["model.max_depth=null"],
    ["seed=7", "model.n_estimators=9"],
    ["model.random_state=7"],
    ["model=logistic_regression", "model.C=0.25", "seed=3"],
    ["model=lightgbm", "model.n_estimators=20", "model.num_leaves=7"],
    ["model=hist_gradient_boosting", "train=search", "train.search.n_iter=3"],
    ["train=search", "train.search.param_distributions.model__max_depth=[1,2]"],
    ["data=flights", "data.as_of=2013-10-01", "data.split.test=14d"],
    ["data=diabetes", "model=ridge", "model.alpha=0.5"],
    ["data.leakage.accepted=[worst_area]", "data.quarantine=0.5"],
    ["+data.columns.numeric.mean_area.max=9000"],
    ["data.task.primary=f1"],
    ["data.title='no: # really, {it} is'"],
    ["tracking=off"],
    ["tracking=server", "tracking.uri=http://mlflow:5000"],
    ["evaluate.metrics=[roc_auc,f1]", "evaluate.importance.rows=9"],
    ["evaluate.gate.champion=0123456789abcdef0123456789abcdef.dir"],
    ["+model.min_samples_leaf=3", "+model.class_weight=balanced"],
    ["drift.ignore=['no','2013-01-01','1e3','']"],
    [],
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_what_an_experiment_says_becomes_the_default(conf: Path, overrides: list[str]) -> None:
    text = applied(*overrides)
    adopt()
    assert compose_tree()[1] == text


def test_a_value_is_one_line_and_all_comments_and_spaces_stay(conf: Path) -> None:
    before = snapshot(conf)
    applied("evaluate.resamples=12", "drift.alpha=0.05", "evaluate.importance.repeats=9")
    assert len(adopt()) == 3
    lines = changed_lines(before, snapshot(conf))
    assert set(lines) == {"evaluate/default.yaml", "drift/default.yaml"}
    for gone, come in lines.values():
        assert len(gone) == len(come)
        assert [line.partition("#")[2] for line in gone] == [line.partition("#")[2] for line in come]
    assert lines["drift/default.yaml"][1][0].startswith("alpha: 0.05 # ")


def test_the_seed_is_changed_where_it_is_and_everything_goes_on_following_it(conf: Path) -> None:
    before = snapshot(conf)
    applied("seed=7")
    assert adopt() == ["conf/config.yaml: seed = 7"]
    assert adopt() == []
    assert changed_lines(before, snapshot(conf)) == {"config.yaml": (["seed: 42"], ["seed: 7"])}


def test_a_group_is_switched_where_the_defaults_name_it(conf: Path) -> None:
    before = snapshot(conf)
    applied("model=logistic_regression")
    assert adopt() == ["conf/config.yaml: model: random_forest → logistic_regression"]
    (lines,) = changed_lines(before, snapshot(conf)).items()
    assert lines == ("config.yaml", (["  - model: random_forest"], ["  - model: logistic_regression"]))


def test_features_other_than_the_model_brings_are_an_override_in_the_defaults(conf: Path) -> None:
    applied("model=logistic_regression", "features=ordinal")
    adopt()
    assert "  - override features: ordinal\n" in (conf / "config.yaml").read_text()
    check()
    applied("model=random_forest", "features=onehot")
    adopt()
    check()


def test_a_model_with_many_other_values_is_still_that_model(conf: Path) -> None:
    applied("model.n_estimators=1", "model.max_depth=1", "model.n_jobs=2", "model.random_state=9")
    adopt()
    assert "model: random_forest" in (conf / "config.yaml").read_text()


def test_an_overlay_is_written_into_the_groups_that_it_changes(conf: Path) -> None:
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: dummy\n\nseed: 9\nevaluate:\n  resamples: 3\n"
    )
    text = applied("+experiment=mine")
    adopt()
    configure([])
    assert Path("params.yaml").read_text() == text
    assert "seed: 9" in (conf / "config.yaml").read_text()


def test_what_conf_cannot_say_is_refused_and_every_file_is_put_back(conf: Path) -> None:
    text = applied("seed=9", "~model.max_depth")
    before = snapshot(conf)
    with pytest.raises(ConfigError, match=r"conf/model/random_forest\.yaml.*by hand"):
        adopt()
    assert snapshot(conf) == before
    assert Path("params.yaml").read_text() == text


def test_an_invalid_params_yaml_is_never_adopted(conf: Path) -> None:
    applied("model.max_depth=deep")
    before = snapshot(conf)
    with pytest.raises(ConfigError, match="max_depth"):
        adopt()
    assert snapshot(conf) == before


plain = st.none() | st.booleans() | st.integers(-99, 99) | st.sampled_from(["off", "a: b", "# x", "", "é", "1e3"])
keys = st.sampled_from("abc")
flat = plain | st.lists(plain, max_size=3) | st.dictionaries(keys, plain, max_size=3)
values = flat | st.lists(flat, max_size=2) | st.dictionaries(keys, flat, max_size=3)
TEXT = """# head
a: 1 # one
b: {c: 2, a: [x, {b: y}]} # two
c:
  # inside
  a:
    - 1 # first
    - b: 2
  b: "three" # three
  c:
# tail
"""


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), values)
def test_setting_a_key_sets_that_key_alone(key: list[str], value: Any) -> None:
    before, after = yaml.safe_load(TEXT), yaml.safe_load(put(TEXT, tuple(key), value))
    node = before
    for part in key[:-1]:
        node[part] = node[part] if isinstance(node.get(part), dict) else {}
        node = node[part]
    node[key[-1]] = value
    assert after == before


@given(st.sampled_from([("a",), ("b", "c"), ("c", "b"), ("c", "c"), ("d",), ("c", "d")]), values)
def test_setting_a_key_keeps_every_comment(key: tuple[str, ...], value: Any) -> None:
    comments = ["# head", "# one", "# two", "# inside", "# first", "# three", "# tail"]
    said = put(TEXT, key, value)
    places = [said.index(comment) for comment in comments]
    assert places == sorted(places)


@given(values, values)
def test_there_is_a_difference_exactly_where_two_trees_are_not_the_same(one: Any, other: Any) -> None:
    same: Callable[[Any], str] = lambda tree: yaml.safe_dump(tree, sort_keys=True)  # noqa: E731 (True is not 1)
    assert (list(differences(one, other)) == []) == (same(one) == same(other))
    assert list(differences(one, one)) == []
