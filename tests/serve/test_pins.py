"""Where it is written which bundle is which variant: a lock file, Git, MLflow."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from serve.pins import LockFile, Revisions, pinned, pointer
from serve.settings import read_settings
from stages.errors import ModelError
from tests.conftest import environment
from tests.serve.service import Workspace, copied


# we are in the folder of `space` throughout
@pytest.fixture
def space(two_models: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = copied(two_models, tmp_path)
    monkeypatch.chdir(made.path)
    return made


# the lock file


def test_a_lock_file_is_parsed_again_only_when_it_has_changed(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    monkeypatch.setattr("serve.pins.pinned", lambda path: (parsed.append(path), pinned(path))[1])
    lock = LockFile(Path("dvc.lock"))
    os.utime("dvc.lock", (1, 1))
    assert [lock.md5("champion") for _ in range(3)] == [space.a] * 3
    assert len(parsed) == 1
    space.pin("b")
    assert lock.md5("champion") == space.b


def test_a_change_within_one_tick_of_the_clock_is_seen(space: Workspace) -> None:
    lock, now = LockFile(Path("dvc.lock")), time.time()
    os.utime("dvc.lock", (now, now))
    assert lock.md5("champion") == space.a
    space.pin("b")
    os.utime("dvc.lock", (now, now))
    assert lock.md5("champion") == space.b


def test_no_half_of_a_lock_file_pins_another_model(space: Workspace) -> None:
    text = Path("dvc.lock").read_text()
    said, problems = set(), set()
    for length in range(len(text)):
        Path("dvc.lock").write_text(text[:length])
        try:
            said.add(LockFile(Path("dvc.lock")).md5("champion"))
        except ModelError as error:
            problems.add(str(error))
    assert said <= {space.a}
    assert all(problem.startswith("dvc.lock: ") and "\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<<<<<<< HEAD\nstages: {}\n", "not a lock file of DVC"),
        ("- 1\n", "not a lock file of DVC"),
        ("stages: {train: {outs: [{path: data/raw, md5: 1}]}}\n", "pins no data/model; run `dvc repro train`"),
        ("stages: {train: {outs: [{path: data/model, md5: 12}]}}\n", "the md5 of data/model is '12', expected 32"),
        ("\xff", "not a lock file of DVC"),
    ],
)
def test_a_file_that_pins_no_model_says_so(space: Workspace, text: str, said: str) -> None:
    Path("dvc.lock").write_text(text)
    with pytest.raises(ModelError, match=rf"dvc\.lock: .*{said}"):
        LockFile(Path("dvc.lock")).md5("champion")
    Path("dvc.lock").unlink()
    with pytest.raises(ModelError, match=r"there is no such file"):
        LockFile(Path("dvc.lock")).md5("champion")


# Git


@pytest.fixture
def history(space: Workspace) -> Workspace:
    """The branch main pins b, the tag v1 and its commit before pin a; the repository's root is the folder above."""
    git = ("git", "-C", "..")
    subprocess.run(["rm", "-rf", ".git"], check=True)
    space.run(*git, "init", "--quiet", "--initial-branch", "main")
    for name, tag in (("a", "v1"), ("b", "v2")):
        space.pin(name)
        space.run(*git, "add", "space/dvc.lock")
        space.run(*git, "commit", "--quiet", "--message", name)
        space.run(*git, "tag", tag)
    return space


def at(name: str) -> str:
    return Revisions(Path("dvc.lock"), {"champion": name}).md5("champion")


def test_a_revision_pins_what_its_lock_file_pins(history: Workspace) -> None:
    first = history.run("git", "rev-parse", "v1").strip()
    Path("dvc.lock").write_text("the working tree does not matter")
    assert [at(name) for name in ("v1", first, first[:8], "HEAD~1", "refs/tags/v1")] == [history.a] * 5
    assert [at(name) for name in ("v2", "main", "HEAD")] == [history.b] * 3
    both = Revisions(Path("dvc.lock"), {"champion": "v1", "challenger": "main"})
    assert [both.md5(variant) for variant in both.variants] == [history.a, history.b]


def test_a_branch_that_moves_is_followed_and_a_commit_s_lock_file_is_read_once(
    history: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = Revisions(Path("dvc.lock"), {"champion": "main"})
    asked: list[str] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda words, **more: (asked.append(words[3]), run(words, **more))[1])
    assert [moving.md5("champion") for _ in range(3)] == [history.b] * 3
    history.run("git", "branch", "--force", "main-moved", "v1")
    history.run("git", "reset", "--quiet", "--hard", "v1")
    assert [moving.md5("champion") for _ in range(3)] == [history.a] * 3
    assert asked.count("show") == 2


def test_an_experiment_is_found_by_its_name(history: Workspace) -> None:
    refs = [f"refs/exps/{place}/fancy-name" for place in (f"ab/{'c' * 38}", f"ef/{'0' * 38}")]
    history.run("git", "update-ref", refs[0], "v1")
    history.run("git", "update-ref", f"refs/exps/ab/{'c' * 38}/fancy-name-2", "v2")
    assert at("fancy-name") == history.a
    history.run("git", "update-ref", refs[1], "v1")
    assert at("fancy-name") == history.a
    history.run("git", "update-ref", refs[1], "v2")
    with pytest.raises(ModelError, match="2 experiments have the name 'fancy-name'"):
        at("fancy-name")
    assert at(refs[0]) == history.a


@pytest.mark.parametrize("name", ["nothing", "--help", "-h", "--output=x", "v1:dvc.lock", "..", "", "v1 v2", ".*"])
def test_what_is_no_revision_is_told_and_never_an_option_of_git(history: Workspace, name: str) -> None:
    with pytest.raises(ModelError, match="is no revision and no experiment of this repository"):
        at(name)
    assert not Path("x").exists()


def test_a_revision_without_a_lock_file_or_a_repository_or_git_is_told(
    history: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.run("git", "rm", "--quiet", "--force", "dvc.lock")
    history.run("git", "commit", "--quiet", "--message", "without")
    with pytest.raises(ModelError, match=r"the revision HEAD \([0-9a-f]{10}\) has no dvc.lock"):
        at("HEAD")
    (tmp_path / "bare").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(ModelError, match="not a git repository"):
        Revisions(tmp_path / "bare/dvc.lock", {"champion": "v1"}).md5("champion")
    monkeypatch.setenv("PATH", str(tmp_path / "bare"))
    with pytest.raises(ModelError, match="Git is not installed"):
        at("v1")


def test_a_git_that_hangs_is_given_up(history: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("serve.pins.GIT_SECONDS", 0.2)
    with pytest.raises(ModelError, match=r"`git rev-parse` did not end within 0.2 s"):
        at("v1")


# which of them


def test_the_settings_say_which(space: Workspace) -> None:
    def chosen(**env: str) -> str:
        return str(pointer(read_settings(env)))

    assert chosen() == "dvc.lock"
    assert chosen(PINWERK_LOCK="/elsewhere/dvc.lock") == "/elsewhere/dvc.lock"
    assert chosen(PINWERK_BUNDLE="models/b") == "models/b"
    assert pointer(read_settings({"PINWERK_BUNDLE": "models/b"})).md5("champion") == space.b
    space.serve(source="git", champion="v1", challenger="main")
    assert chosen() == "dvc.lock at v1, main"
    space.serve(source="registry", champion="champion", challenger=None)
    model = yaml.safe_load(Path("params.yaml").read_text())["tracking"]["model"]
    assert chosen(MLFLOW_TRACKING_URI="http://ann:s3cret@host:5000/") == f"http://host:5000 {model}@champion"
    assert chosen() == f"mlflow.db {model}@champion"


def test_a_real_experiment_of_dvc_is_found_by_its_name(two_models: Workspace, tmp_path: Path) -> None:
    made = Workspace(copied(two_models, tmp_path).path, environment(tmp_path))
    (made.path / "dvc.yaml").write_text("stages: {train: {cmd: cp -r models/b data/model, outs: [data/model]}}\n")
    (made.path / ".gitignore").write_text("/data\n/*.lock\n!/dvc.lock\n")
    made.run("git", "add", "--all")
    made.run("git", "commit", "--quiet", "--message", "start")
    made.run("dvc", "exp", "run", "--quiet", "--name", "other-one")
    made.run("git", "checkout", "--quiet", "--force", "HEAD")
    assert made.b not in (made.path / "dvc.lock").read_text()
    assert Revisions(made.path / "dvc.lock", {"champion": "other-one"}).md5("champion") == made.b
