"""`python -m serve.score IN OUT`: the pinned model over a file, all of it or nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from serve.runtime import Predictor
from stages.bundle import Rows
from tests.conftest import ROOT, environment
from tests.serve.conftest import SIGNATURE, table
from tests.serve.running import lay_out

PROBABILITIES = ["probability_a", "probability_b", "probability_c"]


@pytest.fixture
def home(small_bundle: Path, tmp_path: Path) -> Path:
    return lay_out(tmp_path / "home", small_bundle)


def score(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(home.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "serve.score", *words]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_is_scored_with_the_bits_of_the_pinned_model(home: Path, predictor: Predictor, ending: str) -> None:
    X = table(9000, seed=8)
    X.to_csv(home / "in.csv", index=False)
    X.to_parquet(home / "in.parquet", index=False)
    done = score(home, f"in.{ending}", f"out.{ending}")
    assert done.returncode == 0, done.stderr
    assert f"out.{ending}: 9,000 rows by {predictor.md5} in " in done.stdout
    path = home / f"out.{ending}"
    got = pd.read_csv(path, float_precision="round_trip") if ending == "csv" else pd.read_parquet(path)
    expected = predictor.answers(Rows.of(X, SIGNATURE))
    assert got["prediction"].tolist() == expected.labels
    assert got[PROBABILITIES].to_numpy().tolist() == expected.scores


def test_another_model_is_taken_by_its_md5(home: Path, predictor: Predictor) -> None:
    table(5).to_csv(home / "in.csv", index=False)
    assert score(home, "in.csv", "out.csv", "--md5", predictor.md5.removesuffix(".dir")).returncode == 0
    refused = score(home, "in.csv", "out.csv", "--md5", "0" * 32)
    assert (refused.returncode, "0" * 32 in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("in.csv", "out.parquet"), 1, "out.parquet: the answer has the format of in.csv"),
        (("in.xlsx", "out.xlsx"), 1, "in.xlsx: cannot tell the format of .xlsx; expected one of .csv"),
        (("none.csv", "out.csv"), 1, "none.csv: No such file"),
        (("in.csv", "nowhere/out.csv"), 1, "nowhere: there is no such folder"),
        (("in.csv", "out.csv", "--lock", "other.lock"), 1, "other.lock: there is no such file"),
        (("wrong.csv", "out.csv"), 1, "wrong.csv: line 5002: weight is 'wide'; expected a number"),
        (("in.csv",), 2, "required: OUT"),
    ],
)
def test_what_goes_wrong_is_said_and_leaves_what_was_there(
    home: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (home / "in.csv").write_text("size,weight,colour\n1,2,red\n")
    (home / "wrong.csv").write_text("size,weight,colour\n" + "1,2,red\n" * 5000 + "1,wide,red\n")
    (home / "out.csv").write_text("what was there")
    done = score(home, *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (home / "out.csv").read_text() == "what was there"
    assert not list(home.glob(".*draft*"))


def test_a_terminal_gets_a_bar(home: Path) -> None:
    table(9000).to_csv(home / "in.csv", index=False)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    env = {**environment(home.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "serve.score", "in.csv", "out.csv"]
    process = subprocess.Popen(command, cwd=home, env=env, stderr=theirs)
    os.close(theirs)
    said = ""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # it ends with an error, as terminals do
        while part := terminal.read(1000):
            said += part.decode()
    assert process.wait() == 0
    assert "100%" in said
    assert "9,000 rows" in said
