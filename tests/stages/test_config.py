from __future__ import annotations

import copy
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from stages.config import Config, Split, listed_params, load_config, nearest, read_params, slice_of, validate
from stages.errors import ConfigError

ROOT = Path(__file__).parents[2]
with initialize_config_dir(str(ROOT / "conf"), version_base=None):
    PARAMS: dict[str, Any] = OmegaConf.to_container(compose("config"), resolve=True)  # type: ignore[assignment]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SHARES = {"by": "random", "test": 0.2, "validation": 0.2, "current": 0}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What conf/ composes to as params.yaml in the working folder, beside the repository's dvc.yaml."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return copy.deepcopy(PARAMS)


def changed(key: str, value: Any) -> dict[str, Any]:
    """The repository's parameters with another value at a dotted key."""
    tree = copy.deepcopy(PARAMS)
    node = tree
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return tree


def problem(tree: dict[str, Any], origins: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(tree, origins)
    return str(caught.value)


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if "params" in stage])
def test_every_stage_reads_the_parameters_that_it_lists(stage: str, params: dict[str, Any]) -> None:
    config = load_config(stage)
    for key in listed_params(stage):
        node: Any = config
        for part in key.split("."):
            node = node[part] if isinstance(node, dict) else getattr(node, part)


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if "params" in stage])
def test_a_stage_cannot_read_a_parameter_that_it_does_not_list(stage: str, params: dict[str, Any]) -> None:
    config = load_config(stage)
    for key in leaves(validate(params)):
        watched = any(key == listed or key.startswith(f"{listed}.") for listed in listed_params(stage))
        node: Any = config
        try:
            for part in key.split("."):
                node = getattr(node, part)
        except AttributeError:
            assert not watched, key
        else:
            assert watched, key


def leaves(model: BaseModel, path: str = "") -> list[str]:
    """The dotted names of all fields down to those that are no model themselves."""
    found = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        found += leaves(value, f"{path}{name}.") if isinstance(value, BaseModel) else [f"{path}{name}"]
    return found


def test_reading_an_unlisted_parameter_says_which(params: dict[str, Any]) -> None:
    with pytest.raises(AttributeError, match="model"):
        load_config("ingest").model  # noqa: B018
    with pytest.raises(AttributeError, match="as_of"):
        load_config("train").data.as_of  # noqa: B018


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        validate(PARAMS).seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("evaluate.resamples", 1, ["evaluate.resamples is 1", "greater than or equal to 2"]),
        ("evaluate.resamples", "many", ["evaluate.resamples is 'many'", "integer"]),
        ("evaluate.primary", "roc_acu", ["evaluate", "'roc_acu' is not among metrics"]),
        ("drift.alfa", 0.1, ["drift.alfa: there is no such key (did you mean 'alpha'?)", "effect"]),
        ("evaluate.gate.champoin", None, ["evaluate.gate.champoin", "(did you mean 'champion'?)", "margin"]),
        ("data.split.tset", 0.1, ["data.split.tset", "(did you mean 'test'?)"]),
        ("modell", {}, ["modell: there is no such key (did you mean 'model'?)"]),
        ("seed", -1, ["seed is -1"]),
        ("seed", None, ["seed is None", "integer"]),
        ("model", "random_forest", ["model is 'random_forest'", "dictionary"]),
        ("data", None, ["data is None"]),
        ("data.as_of", "last summer", ["data.as_of is 'last summer'"]),
        ("data.as_of", None, ["a split by time needs `as_of`"]),
        ("data.name", "My Data", ["data.name is 'My Data'"]),
        ("data.split.test", "31 days", ["data.split.test is '31 days'", "such as 31d or 6h"]),
        ("data.split.test", 0.2, ["with `by: time` it is a span such as 31d"]),
        ("data.slices", ["orign"], ["'orign' is no column of the data (did you mean 'origin'?)"]),
        ("data.tables", {}, ["data.tables"]),
        ("data.tables", {"a": {"query": "select 1"}}, ["data.tables.a: a table needs `path`"]),
        ("data.tables", {"a": {"database": "DB", "path": "x"}}, ["`database` and `query`"]),
        ("data.tables", {"a": {"path": "x", "pth": "y"}}, ["data.tables.a.pth", "(did you mean 'path'?)"]),
        ("data.columns.target", "distance", ["the target 'distance' is also a feature"]),
        ("data.columns.categorical", {"temp": {}}, ["temp: both numeric and categorical"]),
        ("data.columns.numeric", {"a": {"allowed": ["x"]}}, ["a: `allowed` is for categorical columns"]),
        ("data.columns.numeric", {"a": {"minn": 1}}, ["data.columns.numeric.a.minn", "(did you mean 'min'?)"]),
        ("tracking.mode", "server", ["mode: server needs a `uri`"]),
        ("tracking.uri", "http://x", ["mode: embedded takes no `uri`"]),
        ("tracking.mode", False, ["tracking.mode is False", "'off'"]),
        ("evaluate.gate.champion", "latest", ["evaluate.gate.champion is 'latest'"]),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(key: str, value: Any, words: list[str]) -> None:
    group = key.split(".")[0]
    said = problem(changed(key, value), {group: f"conf/{group}/chosen.yaml"})
    assert f"conf/{group}/chosen.yaml: " in said
    for word in words:
        assert word in said


def test_a_split_of_the_wrong_kind_is_one_problem_not_one_for_each_kind() -> None:
    assert len(problem(changed("data.split.test", "31 days")).splitlines()) == 1


def test_all_problems_come_in_one_error() -> None:
    tree = changed("drift.alpha", 7)
    tree["evaluate"]["resamples"] = "x"
    del tree["seed"]
    said = problem(tree).splitlines()
    assert said[0] == "3 problems in the config:"
    assert len(said) == 4
    assert "  params.yaml: seed: this key is missing" in said


@given(st.integers(0, 10_000), st.sampled_from(["d", "h", "m"]), st.sampled_from(["", " ", "  "]))
def test_a_span_is_a_number_and_a_unit(number: int, unit: str, gap: str) -> None:
    span = f"{number}{gap}{unit}"
    split = Split.model_validate({"by": "time", "test": span, "validation": span, "current": span})
    seconds = {"d": 86400, "h": 3600, "m": 60}[unit]
    assert split.test == split.current == timedelta(seconds=number * seconds)


@given(st.floats(0, 1, allow_nan=False), st.floats(0, 1, allow_nan=False), st.floats(0, 1, allow_nan=False))
def test_shares_are_taken_exactly_when_they_leave_rows_to_train_on(test: float, other: float, current: float) -> None:
    tree = {"by": "random", "test": test, "validation": other, "current": current}
    if max(test, other, current) < 1 and test + other + current < 1:
        assert Split.model_validate(tree).test == test
    else:
        with pytest.raises(ValidationError, match="leave rows to train on"):
            Split.model_validate(tree)


@pytest.mark.parametrize(("by", "needs"), [("grouped", "groups"), ("predefined", "column")])
def test_a_split_by_a_column_needs_its_name(by: str, needs: str) -> None:
    with pytest.raises(ValidationError, match=f"needs `{needs}`"):
        Split.model_validate({**SHARES, "by": by})
    assert Split.model_validate({**SHARES, "by": by, needs: "patient"}).by == by


@given(st.data())
def test_a_slice_holds_the_listed_keys_and_nothing_else(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(leaves(validate(PARAMS))), unique=True))
    kept = slice_of(PARAMS, keys)
    assert sorted(flat(kept)) == sorted(
        name for name in flat(PARAMS) if any(name == key or name.startswith(f"{key}.") for key in keys)
    )


def flat(tree: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += flat(value, f"{path}{key}.") if isinstance(value, dict) and value else [f"{path}{key}"]
    return found


@given(st.text(max_size=12), st.lists(st.text(max_size=12), max_size=6))
def test_the_nearest_name_is_one_of_the_known(name: str, known: list[str]) -> None:
    said = nearest(name, known)
    assert said == "" or said in {f" (did you mean {other!r}?)" for other in known}


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no such file"), (b"a: [", "not valid YAML"), (b"\xff", "not valid YAML"), (b"- a", "found list")],
)
def test_a_params_yaml_that_cannot_be_read_says_how_to_get_it_back(
    text: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_params(path)
    assert "stages.configure" in str(caught.value) or "dvc repro" in str(caught.value)


def test_the_config_models_name_the_groups_of_conf() -> None:
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"experiment"}
    assert groups | {"seed"} == set(Config.model_fields)


def test_a_password_in_the_tracking_uri_is_refused_and_not_shown() -> None:
    tree = changed("tracking.mode", "server")
    tree["tracking"]["uri"] = "http://ann:s3cret@host:5000"
    said = problem(tree)
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("query", ["?token=s3cret", "?a=1&api_key=s3cret", "#access_token=s3cret", "?%74oken=s3cret"])
def test_a_secret_in_the_query_of_the_tracking_uri_is_refused_and_not_shown(query: str) -> None:
    tree = changed("tracking.mode", "server")
    tree["tracking"]["uri"] = f"https://host:5000/{query}"
    said = problem(tree, {"tracking": "conf/tracking/server.yaml"})
    assert "MLFLOW_TRACKING_TOKEN" in said
    assert "s3cret" not in said


SECRETS = [
    "https://ann:s3cret@host/a.csv",
    "https://s3cret@host/a.csv",
    "sftp://ann:s3cret@host/a.csv",
    "https://store.blob.core.windows.net/a.csv?sv=1&sig=s3cret",
    "https://bucket.s3.amazonaws.com/a.csv?X-Amz-Date=1&X-Amz-Signature=s3cret",
    "https://bucket.s3.amazonaws.com/a.csv?x-amz-security-token=s3cret",
    "https://host/a.csv?key=s3cret",
    "https://host/a.csv?password=s3cret",
    "https://host/a.csv?a=1;client_secret=s3cret",
    "simplecache::https://host/a.csv?token=s3cret",
    "zip://a.csv::https://ann:s3cret@host/a.zip",
]
NO_SECRETS = [
    "data/source/a.csv",
    "data/source/tokens?.csv",
    "https://host/tokens/a.csv?version=7&sort_key=day",
    "s3://bucket/a@b:c.csv?versionId=x",
    "abfs://container@account.dfs.core.windows.net/a.parquet",
    "sftp://ann@host/a.csv",
    "simplecache::s3://bucket/keys.csv",
]


@pytest.mark.parametrize("path", SECRETS)
def test_a_secret_in_the_path_of_a_table_is_refused_and_not_shown(path: str) -> None:
    said = problem(changed("data.tables", {"a": {"path": path}}), {"data": "conf/data/mine.yaml"})
    assert said.startswith("conf/data/mine.yaml: data: tables.a.path holds a ")
    assert "AWS_ACCESS_KEY_ID" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("path", NO_SECRETS)
def test_a_path_without_a_secret_is_taken(path: str) -> None:
    assert validate(changed("data.tables", {"a": {"path": path}})).data.tables["a"].path == path


def test_the_url_of_a_database_in_the_place_of_its_variable_is_refused_and_not_shown() -> None:
    said = problem(changed("data.tables", {"a": {"database": "postgresql://ann:s3cret@host/db", "query": "select 1"}}))
    assert "tables.a.database is the name of an environment variable" in said
    assert "s3cret" not in said
