"""Experiments in a real DVC repository: what conf/ and the command line say is trained and recorded."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Opened, Repository, Shared, environment, pretend

pytestmark = pytest.mark.slow

FOREST, LOGISTIC, DUMMY = (
    "sklearn.ensemble.RandomForestClassifier",
    "sklearn.linear_model.LogisticRegression",
    "sklearn.dummy.DummyClassifier",
)
SWEEP = list(product(("random_forest", "logistic_regression", "dummy"), ("ordinal", "onehot")))
PATIENCE = 240  # seconds for the queue to run dry


@pytest.fixture
def repo(reproduced: Path, opened: Opened) -> Repository:
    return opened(reproduced)


def agree(repo: Repository) -> dict[str, Any]:
    """The parameters of the last execution, which params.yaml, the bundle and MLflow tell alike."""
    params = repo.params()
    trained = repo.json("data/model/provenance.json")["params"]
    assert set(trained) == {"seed", "features", "model", "train", "data"}
    assert {key: trained[key] for key in ("seed", "features", "model", "train")} == {
        key: params[key] for key in ("seed", "features", "model", "train")
    }
    assert trained["data"] == {key: params["data"][key] for key in ("name", "task", "columns")}
    run = recorded(repo, repo.run_id())
    read = {group: tree for group, tree in params.items() if group != "serve"}  # no stage reads that
    assert run == {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat(read)}
    return params


def recorded(repo: Repository, run_id: str) -> dict[str, str]:
    """The parameters of a run as MLflow's SQLite store at the repository's root holds them."""
    with closing(sqlite3.connect(repo.path / "mlflow.db")) as store:
        return dict(store.execute("select key, value from params where run_uuid = ?", (run_id,)).fetchall())


def flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def experiments(repo: Repository) -> dict[str, dict[str, Any]]:
    """name: {"params", "metrics"} of each experiment, as `dvc exp show` tells them."""
    shown = json.loads(repo.run("dvc", "exp", "show", "--json"))
    found = {}
    for baseline in shown:
        for experiment in baseline["experiments"] or []:
            data = experiment["revs"][0]["data"]
            metrics = {path: held["data"] for path, held in data["metrics"].items()}
            found[experiment["name"]] = {"params": data["params"]["params.yaml"]["data"], "metrics": metrics}
    return found


def ran(said: str, stage: str) -> bool:
    return f"Running stage '{stage}'" in said


def test_a_second_repro_does_nothing(repo: Repository) -> None:
    lock = repo.read("dvc.lock")
    said = repo.run("dvc", "repro")
    assert "Running stage" not in said
    assert "up to date" in said
    assert repo.read("dvc.lock") == lock
    assert repo.run("git", "status", "--porcelain") == ""
    agree(repo)


def test_an_edit_of_conf_is_trained_by_the_next_repro(repo: Repository) -> None:
    repo.edit("conf/model/random_forest.yaml", "max_depth: 10", "max_depth: 3")
    said = repo.run("dvc", "repro")
    assert ran(said, "configure")
    assert ran(said, "train")
    assert not ran(said, "ingest")
    assert not ran(said, "prepare")
    assert agree(repo)["model"]["max_depth"] == 3
    assert "Running stage" not in repo.run("dvc", "repro")


def test_another_version_of_a_library_trains_again_and_that_of_another_tool_does_not(
    repo: Repository, tmp_path: Path
) -> None:
    repo.write("requirements/dev.lock", repo.read("requirements/dev.lock") + "# another ruff\n")
    said = repo.run("dvc", "repro")
    assert ran(said, "configure")
    assert not ran(said, "train")
    repo.write("requirements/dev.lock", repo.read("requirements/dev.lock") + "# another scikit-learn\n")
    said = repo.run("dvc", "repro", env={"PYTHONPATH": pretend(tmp_path / "site", "scikit-learn", "9.9")})
    assert ran(said, "train")
    assert not ran(said, "prepare")
    assert repo.json("data/model/provenance.json")["libraries"]["scikit-learn"] == "9.9"


def test_an_experiment_changes_a_value_and_is_adopted(repo: Repository) -> None:
    said = repo.run("dvc", "exp", "run", "--name", "fewer", "-S", "model.n_estimators=7")
    assert ran(said, "train")
    assert agree(repo)["model"]["n_estimators"] == 7
    shown = experiments(repo)["fewer"]
    assert shown["params"]["model"]["n_estimators"] == 7
    assert repo.run("git", "diff", "--name-only", "conf") == ""
    is_adopted(repo, "fewer")


def test_an_experiment_switches_the_model_with_its_features_and_a_value_and_is_adopted(repo: Repository) -> None:
    repo.run("dvc", "exp", "run", "--name", "both", "-S", "model=logistic_regression", "-S", "model.C=0.5")
    params = agree(repo)
    assert params["model"]["_target_"] == LOGISTIC
    assert params["model"]["C"] == 0.5
    assert "OneHotEncoder" in str(params["features"])
    is_adopted(repo, "both")


def test_an_experiment_file_overlays_every_group(repo: Repository) -> None:
    repo.write(
        "conf/experiment/shallow.yaml",
        "# @package _global_\ndefaults:\n  - override /model: dummy\n\nseed: 7\ntracking:\n  experiment: shallow\n",
    )
    repo.run("dvc", "exp", "run", "-S", "+experiment=shallow")
    params = agree(repo)
    assert params["model"] == {"_target_": DUMMY}
    assert (params["seed"], params["tracking"]["experiment"]) == (7, "shallow")


def test_an_experiment_in_a_temporary_folder_leaves_the_workspace_alone(repo: Repository) -> None:
    before = {name: repo.read(name) for name in ("params.yaml", "dvc.lock", "data/model/provenance.json")}
    repo.run("dvc", "exp", "run", "--temp", "--name", "aside", "-S", "model=dummy", "-S", "seed=3")
    assert {name: repo.read(name) for name in before} == before
    assert repo.run("git", "status", "--porcelain") == ""
    shown = experiments(repo)["aside"]["params"]
    assert shown["model"] == {"_target_": DUMMY}
    repo.run("dvc", "exp", "apply", "aside")
    assert agree(repo) == shown  # and MLflow's record lies in this repository, not in DVC's temporary folder


@pytest.mark.parametrize("harm", ["edited", "deleted"])
def test_params_yaml_is_healed_by_the_next_repro(repo: Repository, harm: str) -> None:
    text = repo.read("params.yaml")
    if harm == "edited":
        repo.edit("params.yaml", "max_depth: 10", "max_depth: 9")
        assert "max_depth: 9" in repo.run("python", "-m", "stages.configure", "--check", fails=True)
    else:
        (repo.path / "params.yaml").unlink()
    said = repo.run("dvc", "repro")
    assert repo.read("params.yaml") == text
    assert not ran(said, "train")
    assert repo.run("git", "status", "--porcelain") == ""
    agree(repo)


def test_a_params_yaml_that_is_no_yaml_stops_dvc_and_is_healed_by_configure(repo: Repository) -> None:
    text = repo.read("params.yaml")
    repo.write("params.yaml", "model: [")
    assert "params.yaml" in repo.run("dvc", "repro", fails=True)  # DVC reads it before it runs a stage
    repo.run("python", "-m", "stages.configure")
    assert repo.read("params.yaml") == text
    assert "Running stage" not in repo.run("dvc", "repro")


@pytest.fixture(scope="session")
def swept(reproduced: Path, shared: Shared) -> Path:
    """Six experiments over two groups, run by two workers of DVC's queue."""

    def sweep(folder: Path) -> None:
        Repository(folder, environment(folder)).run("cp", "-a", str(reproduced), str(folder / "repo"))
        repo = Repository(folder / "repo", environment(folder))
        models, features = (",".join(dict.fromkeys(options)) for options in zip(*SWEEP, strict=True))
        repo.run("dvc", "exp", "run", "--queue", "-S", f"model={models}", "-S", f"features={features}")
        try:
            repo.run("dvc", "queue", "start", "--jobs", "2")
            wait_for_queue(repo)
        finally:
            repo.kill_all()

    return shared("swept", sweep) / "repo"


def wait_for_queue(repo: Repository) -> None:
    """Until no task is queued or running; a task that failed shows its log."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(3)
        said = repo.run("dvc", "queue", "status")
        tasks = [line.split() for line in said.splitlines()[1:] if line and not line.startswith("Worker")]
        failed = [task for task in tasks if task[-1] == "Failed"]
        assert not failed, "\n".join(repo.run("dvc", "queue", "logs", task[0]) for task in failed)
        if tasks and all(task[-1] == "Success" for task in tasks):
            return
    pytest.fail(f"the queue did not run dry in {PATIENCE} s:\n{said}")


def found_in(repo: Repository, model: str, features: str) -> str:
    """The name of the sweep's experiment with this model and these features."""
    encoder = {"ordinal": "OrdinalEncoder", "onehot": "OneHotEncoder"}[features]
    target = {"random_forest": FOREST, "logistic_regression": LOGISTIC, "dummy": DUMMY}[model]
    names = [
        name
        for name, held in experiments(repo).items()
        if held["params"]["model"]["_target_"] == target and encoder in str(held["params"]["features"])
    ]
    assert len(names) == 1
    return names[0]


def test_a_queued_sweep_of_two_groups_trains_each_combination_once(swept: Path, opened: Opened) -> None:
    repo = opened(swept)
    found = experiments(repo)
    combinations = {
        (held["params"]["model"]["_target_"], "OneHotEncoder" in str(held["params"]["features"]))
        for held in found.values()
    }
    assert combinations == set(product((FOREST, LOGISTIC, DUMMY), (False, True)))
    assert len(found) == len(SWEEP)
    assert all(list(held["metrics"]) for held in found.values())
    scores = {
        held["params"]["model"]["_target_"]: held["metrics"]["data/reports/metrics.json"]["test"]["roc_auc"]
        for held in found.values()
    }
    assert scores[DUMMY] == 0.5
    assert min(scores[FOREST], scores[LOGISTIC]) > 0.9


def test_each_experiment_of_a_sweep_applies_with_its_own_record(swept: Path, opened: Opened) -> None:
    repo = opened(swept)
    runs = set()
    for name, held in experiments(repo).items():
        repo.run("dvc", "exp", "apply", name)
        assert agree(repo) == held["params"]
        runs.add(repo.run_id())
    assert len(runs) == len(SWEEP)
    assert name in repo.run("dvc", "exp", "show")


@pytest.mark.parametrize(("model", "features"), [("logistic_regression", "onehot"), ("logistic_regression", "ordinal")])
def test_an_applied_experiment_of_another_group_is_adopted_and_nothing_is_trained_again(
    swept: Path, opened: Opened, model: str, features: str
) -> None:
    repo = opened(swept)
    is_adopted(repo, found_in(repo, model, features))


def is_adopted(repo: Repository, name: str) -> None:
    """Apply it, write it into conf/, reproduce: the same params.yaml, the same model, no training, no comment lost."""
    repo.run("git", "checkout", "--quiet", ".")
    repo.run("dvc", "exp", "apply", name)
    params, lock = repo.read("params.yaml"), repo.locked("train")
    comments = comments_in(repo.path / "conf")
    repo.run("python", "-m", "stages.configure", "--check", fails=True)
    repo.run("python", "-m", "stages.adopt")
    repo.run("python", "-m", "stages.configure", "--check")
    assert comments_in(repo.path / "conf") == comments
    said = repo.run("dvc", "repro")
    assert "Stage 'train' didn't change" in said
    assert repo.locked("train") == lock
    assert repo.read("params.yaml") == params
    agree(repo)
    repo.commit("adopted")
    assert "Running stage" not in repo.run("dvc", "repro")


def comments_in(conf: Path) -> dict[str, list[str]]:
    return {
        path.as_posix(): [line.split("#", 1)[1] for line in path.read_text().splitlines() if "#" in line]
        for path in conf.rglob("*.yaml")
    }
