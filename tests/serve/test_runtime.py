"""What is loaded is what is pinned, or nothing is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve.pins import pinned
from serve.runtime import load
from stages.errors import ModelError
from tests.conftest import Opened


def test_a_bundle_whose_bytes_were_changed_is_not_served_and_the_cache_gives_the_right_one(
    reproduced: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = opened(reproduced)
    monkeypatch.chdir(repo.path)
    card = repo.path / "data/model/card.md"
    card.chmod(0o644)
    card.write_text("something else", encoding="utf-8")
    predictor = load(pinned())
    assert predictor.model.path == Path("data/.bundles") / pinned().removesuffix(".dir")
    assert predictor.model.path.joinpath("card.md").read_text(encoding="utf-8") != "something else"


def test_a_bundle_that_is_nowhere_is_named(reproduced: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(opened(reproduced).path)
    with pytest.raises(ModelError, match=r"0{32}\.dir is neither in data/model nor in DVC's cache"):
        load("0" * 32 + ".dir")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ("stages: {train: {outs: [{path: data/raw, md5: a}]}}", "pins no data/model"),
        ("{", "not a lock file"),
        ("[]", "not a lock file"),
    ],
)
def test_a_lock_file_that_pins_no_model_says_so(tmp_path: Path, text: str | None, said: str) -> None:
    lock = tmp_path / "dvc.lock"
    if text is not None:
        lock.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        pinned(lock)


def test_serving_a_compiled_bundle_imports_nothing_heavy(reproduced: Path, opened: Opened) -> None:
    code = (
        "import sys; from serve.app import app; from serve.runtime import load; from serve.pins import pinned; "
        "p = load(pinned()); p.answer([[None] * 30] if all(c.nullable for c in p.model.signature.columns) else []); "
        "print(sorted({'dvc', 'mlflow', 'pandas', 'sklearn', 'scipy', 'duckdb', 'hydra'} & set(sys.modules)))"
    )
    env = {**opened(reproduced).env, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=reproduced, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
