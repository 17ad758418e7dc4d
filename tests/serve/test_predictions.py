"""Every answer is one line of the log, with what the config says about it, also when the process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from serve.exchange import Answered
from serve.live import Variant
from serve.predictions import READ, Batch, PredictionLog
from serve.runtime import Predictor
from serve.settings import Settings, read_settings
from stages.bundle import Rows
from stages.errors import ConfigError
from tests.conftest import ROOT, environment
from tests.serve.conftest import SIGNATURE, table
from tests.serve.running import lay_out
from tests.serve.test_main import free_port

KEY = "k" * 32


def settings(folder: Path, **log: Any) -> Settings:
    made = read_settings({"PINWERK_LOG_KEY": KEY}, ROOT / "params.yaml")
    config = made.serve.log.model_copy(update={"folder": folder, **log})
    return replace(made, serve=made.serve.model_copy(update={"log": config}))


def event(predictor: Predictor, rows: Rows, name: str) -> Answered:
    variant = Variant("champion", predictor, 0.0, "test")
    return Answered(name, time.time_ns(), variant, "native", rows, predictor.answers(rows), 0.0015, None)


def logged(predictor: Predictor, given: Settings, *requests: tuple[str, int]) -> list[dict[str, Any]]:
    """What the log holds of requests with so many rows."""
    log = PredictionLog(given)
    log.start()
    for name, count in requests:
        one = event(predictor, Rows.of(table(count, seed=1), SIGNATURE), name)
        log.take(Batch.of([(one, 0, count)]))
    log.close()
    found = duckdb.sql(READ.format(folder=given.serve.log.folder)).fetchall() if requests and log.written else []
    names = (
        [column[0] for column in duckdb.sql(READ.format(folder=given.serve.log.folder)).description] if found else []
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def test_a_line_says_what_was_asked_and_answered_and_by_which_model(predictor: Predictor, tmp_path: Path) -> None:
    X = table(3, seed=1)
    found = sorted(logged(predictor, settings(tmp_path), ("a" * 22, 3)), key=lambda line: str(line["id"]))
    assert [line["id"] for line in found] == [f"{'a' * 22}.{i}" for i in range(3)]
    answers = predictor.answers(Rows.of(X, SIGNATURE))
    for number, line in enumerate(found):
        features, output = json.loads(line["features"]), json.loads(line["output"])
        assert list(features) == ["size", "weight", "colour"]
        assert features["colour"] == (X["colour"][number] or None)
        assert features["weight"] == X["weight"][number]
        assert output["prediction"] == answers.labels[number]
        assert list(output["probabilities"].values()) == answers.scores[number]
        assert (line["variant"], line["md5"], line["protocol"]) == ("champion", predictor.md5, "native")
        assert line["latency_ms"] == 1.5


def test_columns_are_hashed_or_left_out_and_equal_values_stay_equal(predictor: Predictor, tmp_path: Path) -> None:
    found = logged(predictor, settings(tmp_path, hash=("colour",), omit=("size",)), ("b" * 22, 60))
    words = {json.loads(line["features"])["colour"] for line in found}
    assert all("size" not in json.loads(line["features"]) for line in found)
    assert len(words - {None}) == 2
    assert not words & {"red", "blue"}


def test_without_a_key_nothing_is_hashed_and_the_service_does_not_start(tmp_path: Path) -> None:
    given = replace(settings(tmp_path, hash=("colour",)), log_key=None)
    with pytest.raises(ConfigError, match=r"serve\.log\.hash names colour and PINWERK_LOG_KEY is not set"):
        PredictionLog(given)


def test_a_column_that_the_model_does_not_have_is_told_and_no_feature_is_logged(
    predictor: Predictor, tmp_path: Path
) -> None:
    given = settings(tmp_path, omit=("color",))
    found = logged(predictor, given, ("c" * 22, 2))
    assert [line["features"] for line in found] == [None, None]
    said = PredictionLog(given).form(predictor.md5, SIGNATURE).said
    assert said is not None
    assert "serve.log.omit: 'color' is no feature of this model (did you mean 'colour'?)" in said


def test_a_sample_takes_requests_whole_and_always_the_same(predictor: Predictor, tmp_path: Path) -> None:
    requests = [(f"{number:022x}", 3) for number in range(400)]
    first = {str(line["id"]) for line in logged(predictor, settings(tmp_path / "1", sample=0.25), *requests)}
    again = {str(line["id"]) for line in logged(predictor, settings(tmp_path / "2", sample=0.25), *requests)}
    assert first == again
    assert all(f"{name}.{i}" in first for name in {one.partition(".")[0] for one in first} for i in range(3))
    assert 200 < len(first) < 400


def test_turned_off_it_writes_nothing(predictor: Predictor, tmp_path: Path) -> None:
    assert logged(predictor, settings(tmp_path / "log", enabled=False), ("d" * 22, 3)) == []
    assert not (tmp_path / "log").exists()


def test_a_killed_process_loses_at_most_the_last_second_and_leaves_no_torn_line(
    small_bundle: Path, tmp_path: Path
) -> None:
    home, port = lay_out(tmp_path / "home", small_bundle), free_port()
    env = {**environment(tmp_path / "scratch"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "serve.app:app", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen([*command, "--no-access-log"], cwd=home, env=env)
    answered: list[tuple[float, str]] = []
    body = json.dumps({"features": [1.0, 2.0, "red"]}).encode()
    try:
        ended = None
        while ended is None or time.monotonic() < ended:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body, timeout=5) as answer:
                    answered.append((time.monotonic(), answer.headers["x-prediction-id"]))
                    ended = ended or time.monotonic() + 3
            except OSError:
                time.sleep(0.05)
        killed = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    query = READ.format(folder=home / "data/live/predictions").replace("ignore_errors = true", "ignore_errors = false")
    there = {name for (name, *_) in duckdb.sql(query).fetchall()}
    lost = [killed - at for at, name in answered if name not in there]
    assert len(answered) > 100
    assert max(lost, default=0) <= 1
