from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from stages.configure import check, compose_tree, composed, main, options_of
from stages.errors import ConfigError
from stages.nodes import build, build_pipeline

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
OPTIONS = [
    (folder.name, path.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir()
    for path in sorted(folder.glob("*.yaml"))
]


@pytest.fixture(autouse=True)
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/ in the working folder, to do anything with."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return tmp_path / "conf"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        composed(overrides)
    return str(caught.value)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_its_nodes_can_be_built(group: str, option: str) -> None:
    data = {"ridge": "diabetes"}.get(option, "breast_cancer")
    choice = [f"{'+' if group == 'experiment' else ''}{group}={option}"]
    if group not in {"data", "experiment"}:
        choice.append(f"data={data}")
    if option == "server":
        choice.append("tracking.uri=http://127.0.0.1:5000")
    _, config = composed(choice)
    pipeline = build_pipeline(config.features, config.model, config.train.targets)
    assert [name for name, _ in pipeline.steps] == ["features", "model"]
    if config.train.search is not None:
        build({**config.train.search, "estimator": pipeline}, config.train.targets)


@pytest.mark.parametrize("data", ["breast_cancer", "wine", "diabetes"])
@pytest.mark.parametrize("model", options_of("model") or [p.stem for p in sorted((CONF / "model").glob("*.yaml"))])
def test_every_model_that_can_do_the_task_composes_with_it_and_others_are_refused(data: str, model: str) -> None:
    regression = data == "diabetes"
    if {"ridge": not regression, "logistic_regression": regression}.get(model, False):
        kind = "regressor" if regression else "classifier"
        said = problems(f"data={data}", f"model={model}")
        assert f"conf/model/{model}.yaml: model._target_" in said
        assert f"is no {kind}" in said
        assert "try model=" in said
    else:
        _, config = composed([f"data={data}", f"model={model}"])
        assert config.data.name == data


def test_the_committed_params_yaml_is_what_conf_composes_to(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    check()


def test_what_conf_composes_to_is_what_hydra_writes_and_reads_back_the_same() -> None:
    tree, text, choices = compose_tree(["data=wine"])
    assert yaml.safe_load(text) == tree
    assert choices["data"] == "wine"
    assert "hydra" not in tree


def test_all_problems_are_named_at_once_with_file_key_value_and_nearest_name(conf: Path) -> None:
    edit(conf / "model/random_forest.yaml", "n_estimators: 100", "n_estimator: 100")
    edit(conf / "model/random_forest.yaml", "max_depth: 10", "max_depth: ten")
    edit(conf / "train/fit.yaml", "threshold: f1", "treshold: f1")
    edit(conf / "evaluate/default.yaml", "resamples: 200", "resamples: many")
    edit(conf / "drift/default.yaml", "alpha: 0.01", "alpha: 2")
    edit(conf / "config.yaml", "tracking: embedded", "tracking: embeded")
    said = problems("data=breast_cancer").splitlines()
    assert said[0] == f"{len(said) - 1} problems in the config:"
    expected = [
        ("conf/config.yaml: tracking: there is no conf/tracking/embeded.yaml", "(did you mean 'embedded'?)", "server"),
        ("conf/model/random_forest.yaml: model.n_estimator: ", "no such parameter (did you mean 'n_estimators'?)"),
        ("conf/train/fit.yaml: train.treshold: there is no such key (did you mean 'threshold'?)", "targets"),
        ("conf/train/fit.yaml: train.threshold: this key is missing",),
        ("conf/evaluate/default.yaml: evaluate.resamples is 'many': ", "integer"),
        ("conf/drift/default.yaml: drift.alpha is 2: ", "less than 1"),
    ]
    for words in expected:
        assert any(all(word in line for word in words) for line in said), (words, said)


def test_how_to_serve_is_checked_with_the_rest_though_no_stage_reads_it() -> None:
    said = problems("data=breast_cancer", "+serve.limits.row=7", "serve.pins.source=git", "model.max_depth=ten")
    assert "conf/serve/default.yaml: serve.limits.row: there is no such key (did you mean 'rows'?)" in said
    assert "conf/serve/default.yaml: serve.pins: source: git needs `champion`, a tag, branch, commit" in said
    assert "model.max_depth" in said


def test_a_parameter_of_the_wrong_type_is_named_with_what_scikit_learn_takes() -> None:
    said = problems("data=breast_cancer", "model.max_depth=ten")
    assert said.startswith("conf/model/random_forest.yaml: model.max_depth: The 'max_depth' parameter")
    assert "Got 'ten' instead" in said


def test_an_unknown_option_of_a_group_is_named_with_the_nearest(conf: Path) -> None:
    edit(conf / "config.yaml", "model: random_forest", "model: random_forrest")
    said = problems()
    assert "conf/config.yaml: model: there is no conf/model/random_forrest.yaml (did you mean 'random_forest'?)" in said
    assert "logistic_regression" in said


def test_a_target_outside_the_allowlist_is_refused_with_the_way_to_allow_it(conf: Path) -> None:
    (conf / "model/shell.yaml").write_text("_target_: subprocess.run\nargs: [touch, pwned]\n")
    said = problems("data=breast_cancer", "model=shell")
    assert "conf/model/shell.yaml: model._target_: 'subprocess.run' is outside the allowed modules" in said
    assert "train.targets" in said
    assert not Path("pwned").exists()


def test_a_module_that_the_config_allows_may_be_named(conf: Path) -> None:
    edit(conf / "train/fit.yaml", "xgboost]", "xgboost, scipy]")
    (conf / "train/drawn.yaml").write_text(
        "defaults: [search, _self_]\nsearch:\n  param_distributions:\n    model__max_leaf_nodes:\n"
        "      { _target_: scipy.stats.randint, low: 2, high: 9 }\n"
    )
    _, config = composed(["data=breast_cancer", "train=drawn"])
    assert config.train.search is not None
    build({**config.train.search, "estimator": None}, config.train.targets)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("conf/model/random_forest.yaml", "_target_: [", "conf/"),
        ("conf/model/random_forest.yaml", b"\xff\xfe", "conf/"),
        ("conf/config.yaml", "defaults: {", "conf/config.yaml"),
        ("conf/config.yaml", "seed", "conf/config.yaml"),
        ("conf/config.yaml", b"seed: \xff", "conf/config.yaml"),
        ("conf/evaluate/default.yaml", "metrics: ${data.tusk.metrics}", "data.tusk"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(path: str, text: str | bytes, said: str) -> None:
    Path(path).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said in problems()


def test_a_missing_query_and_a_metric_that_is_no_scorer_are_named(conf: Path) -> None:
    edit(conf / "data/wine.yaml", "conf/data/wine.sql", "conf/data/wein.sql")
    said = problems("data=wine", "evaluate.metrics=[neg_log_loss,acuracy]", "train.threshold=f11")
    assert "conf/data/wine.yaml: data.query: there is no file conf/data/wein.sql (did you mean 'wine.sql'?)" in said
    assert "evaluate.metrics: 'acuracy' is no scikit-learn scorer (did you mean 'accuracy'?)" in said
    assert "conf/train/fit.yaml: train.threshold: 'f11' is no scikit-learn scorer (did you mean 'f1'?)" in said


@pytest.mark.parametrize("exp", [None, "tried"])
def test_a_secret_of_the_environment_never_reaches_params_yaml(
    exp: str | None, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["data=wine"])
    before = Path("params.yaml").read_text()
    monkeypatch.setenv("TICKETS_URL", "postgresql://ann:hunter2@host/db")
    edit(conf / "data/wine.yaml", "title: Which of three", "title: ${oc.env:TICKETS_URL} Which of three")
    if exp:
        monkeypatch.setenv("DVC_EXP_NAME", exp)
    with pytest.raises(ConfigError, match=r"conf/data/wine.yaml:4: \$\{oc.env:…\} is not for conf/.*TICKETS_URL`"):
        main(["data=wine"] if exp is None else [])
    assert Path("params.yaml").read_text() == before


def test_an_override_that_reads_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    said = problems("data=wine", "data.title=${oc.env:SECRET}")
    assert said.startswith("override data.title: ${oc.env:…} is not for conf/")


def test_a_module_named_in_hydras_search_path_is_not_imported(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (conf / "evil").mkdir()
    (conf / "evil/__init__.py").write_text("open('pwned', 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(conf / "config.yaml", "seed: 42", "hydra: { searchpath: ['pkg://conf.evil'] }\nseed: 42")
    assert "hydra: conf/ says what is run" in problems()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("data", "metric", "fits"),
    [
        ("wine", "roc_auc", "roc_auc_ovr"),
        ("diabetes", "f1", "r2"),
        ("diabetes", "roc_auc", "r2"),
        ("breast_cancer", "r2", "roc_auc"),
        ("breast_cancer", "neg_max_error", "f1"),
    ],
)
def test_a_metric_of_another_task_is_told_before_anything_is_trained(data: str, metric: str, fits: str) -> None:
    said = problems(f"data={data}", f"evaluate.metrics=[{metric}]", f"evaluate.primary={metric}")
    assert said.startswith(f"conf/evaluate/default.yaml: evaluate.metrics: '{metric}' does not fit data.task ")
    assert fits in said


def test_the_primary_metric_and_the_scoring_of_a_search_must_fit_the_task_too() -> None:
    said = problems(
        "data=breast_cancer", "data.task.primary=r2", "evaluate.primary=roc_auc",
        "train=search", "train.search.scoring=neg_max_error",
    )  # fmt: skip
    assert "conf/data/breast_cancer.yaml: data.task.primary: 'r2' does not fit data.task binary" in said
    assert "conf/train/search.yaml: train.search.scoring: 'neg_max_error' does not fit data.task binary" in said


@pytest.mark.parametrize("metric", ["roc_auc", "neg_log_loss", "r2"])
def test_a_threshold_that_no_labels_can_choose_is_told_before_anything_is_trained(metric: str) -> None:
    said = problems("data=breast_cancer", f"train.threshold={metric}")
    assert said.startswith(f"conf/train/fit.yaml: train.threshold: '{metric}' ")
    composed(["data=breast_cancer", "train.threshold=matthews_corrcoef"])


def test_a_slice_of_no_column_is_told_before_anything_is_trained() -> None:
    said = problems("data=flights", "evaluate.slices=[origin,carier]")
    assert said == (
        "conf/evaluate/default.yaml: evaluate.slices: 'carier' is no column of the data (did you mean 'carrier'?)"
    )


def test_metrics_threshold_and_slices_are_told_all_at_once() -> None:
    said = problems(
        "data=breast_cancer",
        "evaluate.metrics=[r2,roc_auc,f1_samples]",
        "train.threshold=roc_auc",
        "evaluate.slices=[x]",
    )
    for words in ("'r2' does not fit", "'f1_samples' does not fit", "'roc_auc' cannot choose", "'x' is no column"):
        assert words in said
    assert len(said.splitlines()) == 5


def test_nothing_is_written_while_conf_has_a_problem(conf: Path, tmp_path: Path) -> None:
    edit(conf / "model/random_forest.yaml", "n_estimators", "n_estimator")
    with pytest.raises(ConfigError):
        main([])
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


def test_configure_writes_params_and_the_chosen_query(conf: Path) -> None:
    main(["data=wine"])
    assert yaml.safe_load(Path("params.yaml").read_text())["data"]["name"] == "wine"
    assert Path("data/query.sql").read_text() == (conf / "data/wine.sql").read_text()


def test_configure_leaves_a_file_alone_that_says_the_same() -> None:
    main(["data=wine"])
    before = Path("params.yaml").stat()
    main(["data=wine"])
    after = Path("params.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_in_an_experiment_configure_keeps_params_yaml_and_copies_its_query(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["data=wine", "seed=5"])
    text = Path("params.yaml").read_text()
    Path("data/query.sql").unlink()
    monkeypatch.setenv("DVC_EXP_NAME", "tried")
    main([])
    assert Path("params.yaml").read_text() == text
    assert Path("data/query.sql").read_text() == (conf / "data/wine.sql").read_text()


def test_in_an_experiment_configure_refuses_what_dvc_composed_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    main(["data=wine"])
    edit(Path("params.yaml"), "max_depth: 10", "max_depht: 10")
    monkeypatch.setenv("DVC_EXP_NAME", "tried")
    with pytest.raises(ConfigError, match=r"params.yaml: model.max_depht: .*did you mean 'max_depth'"):
        main([])


def test_the_check_shows_the_difference_and_both_ways_out() -> None:
    main([])
    edit(Path("params.yaml"), "max_depth: 10", "max_depth: 11")
    with pytest.raises(ConfigError) as caught:
        check()
    said = str(caught.value)
    assert "-  max_depth: 11" in said
    assert "+  max_depth: 10" in said
    assert "dvc repro" in said
    assert "stages.adopt" in said


def test_the_check_speaks_where_params_yaml_is_missing() -> None:
    with pytest.raises(ConfigError, match="is not what conf/ composes to"):
        check()
