"""A small real repository, with Git and DVC, in a temporary folder."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[1]
KEPT = ("conf", "stages", "data/source", "dvc.yaml", "params.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore")
KEPT += (".dvc/plots", ".gitignore", "pyproject.toml", "requirements/dev.lock")
LATEST = 300  # seconds that any one command may take

SMALL = (
    ("conf/config.yaml", "data", "breast_cancer"),
    ("conf/model/random_forest.yaml", "n_estimators", "10"),
    ("conf/model/random_forest.yaml", "n_jobs", "1"),
    ("conf/evaluate/default.yaml", "resamples", "10"),
    ("conf/evaluate/default.yaml", "rows", "50"),
    ("conf/evaluate/default.yaml", "repeats", "1"),
    ("conf/drift/default.yaml", "evidently_rows", "0"),
    ("conf/engine/duckdb.yaml", "threads", "1"),
)


@dataclass(frozen=True)
class Repository:
    """A working tree under Git and DVC, whose commands see nothing of the machine's own settings."""

    path: Path
    env: dict[str, str] = field(repr=False)

    def run(self, *command: str, fails: bool = False, env: dict[str, str] | None = None) -> str:
        """What a command printed on both streams; fails=True asks it to fail, otherwise it must not."""
        with tempfile.TemporaryFile("w+") as out:  # a pipe would stay open as long as the queue's workers live
            done = subprocess.run(
                command,
                cwd=self.path,
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=LATEST,
                check=False,
            )
            out.seek(0)
            said = out.read()
        assert (done.returncode != 0) == fails, f"{' '.join(command)} → {done.returncode}\n{said}"
        return said

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A command in a process group of its own."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=self.path, env=self.env, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first `old`, which must be there."""
        file = self.path / path
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{path} does not say {old!r}"
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def set(self, path: str, key: str, value: str) -> None:
        """Give a key of a YAML file another plain value, wherever in the file it is."""
        text, count = re.subn(rf"\b{key}: [^,\s}}]+", f"{key}: {value}", self.read(path))
        assert count == 1, f"{path} says {key} {count} times"
        self.write(path, text)

    def write(self, path: str, text: str) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.path / path).read_text(encoding="utf-8")

    def json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def params(self) -> dict[str, Any]:
        tree: dict[str, Any] = yaml.safe_load(self.read("params.yaml"))
        return tree

    def locked(self, stage: str) -> dict[str, Any]:
        """The stage's entry in dvc.lock."""
        entry: dict[str, Any] = yaml.safe_load(self.read("dvc.lock"))["stages"][stage]
        return entry

    def track(self, **tracking: Any) -> None:
        """Change the tracking group of params.yaml, as if conf/ said so."""
        params = self.params()
        params["tracking"] |= tracking
        self.write("params.yaml", yaml.safe_dump(params, sort_keys=False))

    def waiting(self) -> list[Path]:
        """The records in the outbox."""
        return [path.parent for path in (self.path / "data/outbox").glob("*/record.json")]

    def run_id(self) -> str:
        """The MLflow run of the execution that the working tree holds."""
        record = self.json("data/reports/run.json")["record"]
        return str(self.json(f"data/outbox/delivered/{record}.json")["run_id"])

    def commit(self, message: str = "a change") -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def processes(self) -> list[psutil.Process]:
        """Those that work inside the tree, such as the workers of DVC's queue."""
        return [process for process in psutil.process_iter() if _inside(process, self.path)]

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


def _inside(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


def pretend(folder: Path, name: str, version: str) -> str:
    """A folder for sys.path in which another version of a library says that it is installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return str(folder)


def environment(folder: Path) -> dict[str, str]:
    """Variables under which git, dvc and the stages read no settings of the person or the machine."""
    foreign = ("DVC_", "GIT_", "MLFLOW_", "PINWERK_", "PYTEST_", "PYTHON", "AWS_", "HYDRA_", "COV_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _WHO.items()}
    dvc = {f"DVC_{name}_DIR": str(folder / "dvc" / name.lower()) for name in _DVC_FOLDERS}
    return {
        **env,
        **who,
        **dvc,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }


_WHO = {"NAME": "Pinwerk's tests", "EMAIL": "tests@example.com"}
_DVC_FOLDERS = ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")


def lay_out(folder: Path) -> Path:
    """The files that a clone would have, with the small data set and a model that fits in no time."""
    for name in KEPT:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return folder


def make(folder: Path, env: dict[str, str]) -> Repository:
    repo = Repository(lay_out(folder), env)
    for path, key, value in SMALL:
        repo.set(path, key, value)
    repo.run("python", "-m", "stages.configure")
    repo.run("git", "init", "--quiet", "--initial-branch", "main")
    repo.commit("start")
    return repo


Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """make_once(name, make): a folder that one of pytest's workers makes and all of them read."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return make_once


Opened = Callable[[Path], Repository]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """opened(folder): a copy of that repository to do anything with."""
    copies: list[Repository] = []

    def copy(source: Path) -> Repository:
        folder = tmp_path / f"repo{len(copies) or ''}"
        subprocess.run(["cp", "-a", str(source), str(folder)], check=True)
        copies.append(Repository(folder, environment(tmp_path)))
        return copies[-1]

    yield copy
    for repo in copies:
        repo.kill_all()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Repository]:
    """Committed, nothing reproduced yet."""
    repo = make(tmp_path / "fresh", environment(tmp_path))
    yield repo
    repo.kill_all()


@pytest.fixture(scope="session")
def reproduced(shared: Shared) -> Path:
    """A repository whose whole pipeline has run, committed with its dvc.lock; read it through `opened`."""

    def reproduce(folder: Path) -> None:
        repo = make(folder / "repo", environment(folder))
        repo.run("dvc", "repro")
        repo.commit("reproduced")

    return shared("reproduced", reproduce) / "repo"
