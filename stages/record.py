"""Deliver the whole execution to MLflow as one run: parameters, metrics, reports, data, the registered model."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from stages.address import masked
from stages.bundle import MODEL, bundle_md5
from stages.config import Tracking, listed_params, load_config, read_params, slice_of
from stages.errors import TrackingError, run_stage
from stages.files import REPORTS, read_json, write_atomically
from stages.outbox import Record, content_id, deliver, now, put
from stages.provenance import git_state

LOCK = Path("dvc.lock")
RUN = REPORTS / "run.json"
CODE = ("stages", "conf", "data/source", "dvc.yaml")  # what a commit says about an execution
LONGEST = 6000  # characters of a parameter's value that MLflow keeps
FILES = ("report.html", "gate.json", "metrics.json", "drift.json", "profile.json", "evaluate", "drift")


def main() -> None:
    started = time.perf_counter()
    tracking = load_config("record").tracking
    if tracking.mode == "off":
        _say(None, None)
        print("record: tracking is off, nothing is kept")
        return
    files = [REPORTS / name for name in FILES if (REPORTS / name).exists()]
    files += [MODEL / "card.md", Path("params.yaml")]
    record = collected(tracking, files)
    folder = put(record, files, MODEL)
    _say(record.id, record.experiment)
    try:
        done = deliver(folder, tracking, tracking.deadline)
    except TrackingError as error:
        print(f"record: kept in {folder}, not delivered: {error}. `make deliver` delivers it later")
        return
    took = time.perf_counter() - started
    print(f"record: run {done.run_id}, {done.model} version {done.version}, in {took:.1f} s → make ui")


def _say(record: str | None, experiment: str | None) -> None:
    """Nothing that a later delivery would change: DVC pins this file. `stages.outbox.went` knows the run."""
    write_atomically(RUN, json.dumps({"record": record, "experiment": experiment}, indent=1) + "\n")


def collected(tracking: Tracking, files: Sequence[Path]) -> Record:
    """The execution as the files say it."""
    params, git = slice_of(read_params(), listed_params("record")), git_state(CODE)
    gate = read_json(REPORTS / "gate.json")
    metrics = dict(numbers(read_json(REPORTS / "metrics.json")))
    metrics |= {f"drift.{key}": value for key, value in numbers(read_json(REPORTS / "drift.json"))}
    model_md5 = bundle_md5(MODEL)
    tags = {
        "data": params["data"]["name"],
        "gate": "passed" if gate["passed"] else "failed",
        "git.commit": git["commit"],
        "git.dirty": None if git["dirty"] is None else str(git["dirty"]).lower(),
        "mlflow.source.git.commit": git["commit"],
        "mlflow.source.name": "dvc.yaml",
        "dvc.experiment": git["experiment"],
        "dvc.baseline": git["commit"] if git["experiment"] else None,
        "mlflow.parentRunId": os.environ.get("MLFLOW_RUN_ID"),  # set by `mlflow run`
        "md5.data/model": model_md5,
        **{f"md5.{path}": md5 for path, md5 in locked("ingest", "prepare").items()},
    }
    logged = {sayable(key): shortened(value) for key, value in flat(params)}
    prepared = locked("prepare").get("data/prepared", "")
    logged["tracking.uri"] = masked(logged["tracking.uri"], tracking)
    record = Record(
        id="",
        time=now(),
        name=git["experiment"],
        experiment=tracking.experiment,
        model=tracking.model,
        model_md5=model_md5,
        params=logged,
        metrics={sayable(key): value for key, value in metrics.items()},
        tags={key: str(value) for key, value in tags.items() if value is not None},
        datasets={f"{params['data']['name']}/{split}": prepared for split in ("train", "test")} if prepared else {},
    )
    return replace(record, id=content_id(record, files))


def locked(*stages: str) -> dict[str, str]:
    """path → md5 of the outs of stages, as dvc.lock pins them by now; DVC writes it stage by stage."""
    try:
        tree = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"]
        outs = [out for stage in stages if stage in tree for out in tree[stage]["outs"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}  # run by hand, without DVC
    return {out["path"]: out["md5"] for out in outs}


def flat(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list is one value."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, tree


def numbers(tree: Any) -> Iterator[tuple[str, float]]:
    """The numbers among the dotted keys; truth is 0 or 1, what is no finite number is left out."""
    for key, value in flat(tree):
        with suppress(OverflowError):  # an integer beyond the floats
            if isinstance(value, (bool, int, float)) and math.isfinite(value):
                yield key, float(value)


def sayable(key: str) -> str:
    """A key in the letters that MLflow allows; no path, which it would want to be in its shortest form."""
    return re.sub(r"^\.|[^\w\-. ]", "_", key)[:250] or "_"


def shortened(value: Any) -> str:
    """A value as text, cut where MLflow would refuse it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 30]}… ({len(text)} characters)"


if __name__ == "__main__":
    run_stage(main)
