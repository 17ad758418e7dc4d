"""What determined a bundle is in it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.bundle import bundle_md5
from stages.provenance import code_md5, git_state
from tests.conftest import Opened, Repository


@pytest.fixture
def repo(reproduced: Path, opened: Opened) -> Repository:
    return opened(reproduced)


def test_an_equal_model_has_the_same_md5_whatever_commit_or_experiment_it_is_made_in(repo: Repository) -> None:
    pinned = repo.locked("train")["outs"][0]["md5"]
    repo.write("notes.md", "another commit")
    repo.commit()
    repo.write("stages/untracked.py", "")
    repo.edit("stages/gate.py", "from __future__", "\nfrom __future__")  # no code of train's
    repo.run("python", "-m", "stages.train", env={"DVC_EXP_NAME": "brave-cat", "DVC_EXP_BASELINE_REV": "f" * 40})
    assert bundle_md5(repo.path / "data/model") == pinned


def test_a_bundle_says_which_code_libraries_and_data_made_it(repo: Repository) -> None:
    told = repo.json("data/model/provenance.json")
    assert set(told) == {"params", "data", "code", "python", "libraries", "compiled"}
    locked = {dep["path"]: dep["md5"] for dep in repo.locked("train")["deps"]}
    assert told["data"] == {"data/prepared": locked["data/prepared"]}
    assert {"python": told["python"], **told["libraries"]} == repo.json("data/versions.json")
    assert told["code"] in repo.read("data/model/card.md")


def test_the_md5_of_code_follows_from_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stages/compiling/__pycache__").mkdir(parents=True)
    Path("stages/train.py").write_text("1")
    Path("stages/compiling/trees.py").write_text("2")
    code = ["stages/train.py", "stages/compiling"]
    before = code_md5(code)
    Path("stages/compiling/__pycache__/trees.cpython-311.pyc").write_text("3")
    Path("stages/gate.py").write_text("4")
    assert code_md5(reversed(code)) == before
    Path("stages/compiling/trees.py").rename("stages/compiling/forests.py")
    renamed = code_md5(code)
    Path("stages/train.py").write_text("5")
    assert len({before, renamed, code_md5(code)}) == 3


def test_a_file_that_git_does_not_know_is_a_change(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo.path)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    commit = repo.run("git", "rev-parse", "HEAD").strip()
    assert git_state(["stages", "conf"]) == {"commit": commit, "dirty": False, "experiment": None}
    repo.write("conf/model/mine.yaml", "")
    assert git_state(["stages", "conf"])["dirty"]
    assert not git_state(["stages"])["dirty"]


def test_without_git_nothing_is_said_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    assert git_state(["stages"])["commit"] is None
    assert git_state(["stages"])["dirty"] is None
