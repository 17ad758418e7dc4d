"""What Prometheus sees of a running service, with one worker and with several, and what it costs to forget a model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve.monitor import LATENCY, counted
from tests.serve.running import Service, lay_out, running


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    scratch = tmp_path_factory.mktemp("monitor")
    with running(lay_out(scratch / "home", small_bundle), scratch) as service:
        yield service


def metrics(service: Service) -> dict[str, float]:
    """The value of each series."""
    text = service.ask("/metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)}


def total(found: dict[str, float], name: str, *labels: str) -> float:
    return sum(value for key, value in found.items() if key.split("{")[0] == name and all(one in key for one in labels))


def post(service: Service, tree: object, path: str = "/predict") -> int:
    return service.ask(path, json.dumps(tree).encode(), {"content-type": "application/json"}).status


def test_rows_errors_missing_values_and_categories_that_training_never_saw_are_counted(service: Service) -> None:
    before = metrics(service)
    rows = [
        {"size": None, "weight": 1.0, "colour": "red"},
        {"size": 1.0, "weight": 1.0, "colour": "purple"},
        {"size": 1.0, "weight": 1.0},
    ]
    assert post(service, rows) == 200
    assert post(service, {"instances": [[1.0, 2.0, "red"]]}, "/v1/models/pinwerk:predict") == 200
    assert post(service, {"features": ["wide"]}) == 422
    after = metrics(service)

    def more(name: str, *labels: str) -> float:
        return total(after, name, *labels) - total(before, name, *labels)

    assert more("model_predictions_total", 'protocol="native"') == 3
    assert more("model_predictions_total", 'protocol="v1"') == 1
    assert more("model_prediction_latency_seconds_count") == 2
    assert more("model_errors_total", 'kind="bad_input"') == 1
    assert more("model_missing_values_total", 'column="size"') == 1
    assert more("model_missing_values_total", 'column="colour"') == 1
    assert more("model_unseen_categories_total", 'column="colour"') == 1
    assert more("model_score_count", 'class="a"') == 4
    assert more("model_log_lost_records_total") == 0


def test_what_is_live_and_how_long_ago_the_pointer_was_seen_can_be_read(service: Service) -> None:
    found = metrics(service)
    (info,) = (key for key in found if key.startswith("model_info{"))
    assert found[info] == 1
    assert 'variant="champion"' in info
    assert 'task="multiclass"' in info
    assert 0 <= found["model_pointer_age_seconds"] < 30
    assert total(found, "model_problem") == 0
    assert found["model_queue_depth"] == 0


def test_the_page_is_openmetrics_for_who_asks_for_it(service: Service) -> None:
    answer = service.ask("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


def test_who_asks_for_a_version_that_is_none_gets_the_page_as_it_is(service: Service) -> None:
    kind = "application/openmetrics-text"
    for accept in (f"{kind}; version=abc", f"{kind}; version=", ";;,", "\xff"):
        assert service.ask("/metrics", headers={"accept": accept}).status == 200


def test_a_pointer_that_leads_nowhere_is_a_problem_in_the_metrics_and_the_model_answers_on(
    small_bundle: Path, tmp_path: Path
) -> None:
    with running(lay_out(tmp_path / "home", small_bundle), tmp_path / "scratch") as service:
        (service.home / "dvc.lock").write_text("stages: {train: {outs: []}}\n")
        for _ in range(100):
            if total(metrics(service), "model_problem", 'variant="pointer"') == 1:
                break
            time.sleep(0.1)
        assert total(metrics(service), "model_problem", 'variant="pointer"') == 1
        assert post(service, {"features": [1.0, 2.0, "red"]}) == 200
        assert "dvc.lock" in json.loads(service.ask("/ready").body)["problems"]["pointer"]


def test_values_are_counted_into_the_buckets_that_prometheus_means() -> None:
    values = np.array([0.0001, 0.00011, 1.0, 10.0, 11.0])
    counts = counted(values, LATENCY)
    assert len(counts) == len(LATENCY) + 1
    assert (counts[0], counts[1], counts[-2], counts[-1], sum(counts)) == (1, 1, 1, 1, 5)
