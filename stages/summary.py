"""What a finished pipeline says to the person who ran it: how good the model is, and where to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.config import read_params
from stages.errors import run_stage
from stages.files import REPORTS, read_json
from stages.outbox import outbox, went
from stages.reporting.wording import worded


def main() -> None:
    print(summary(read_params(), REPORTS))


def summary(params: dict[str, Any], reports: Path) -> str:
    """A dozen lines: headline metric, gate, drift, and the paths and commands to go on with."""
    metrics, gate, drift = (read_json(reports / f"{name}.json") for name in ("metrics", "gate", "drift/columns"))
    primary = params["evaluate"]["primary"]
    words = worded(primary)
    headline = (
        f"{words.name} {words.figure(metrics['test'][primary])} "
        f"({words.limits(metrics['test_low'][primary], metrics['test_high'][primary])}) on test, "
        f"the dummy {words.figure(metrics['dummy'][primary])}"
    )
    verdict = "passed" if gate["passed"] else "not passed: " + " ".join(gate["reasons"])
    return f"""
{params["data"]["title"]}
  model    {params["model"]["_target_"].rsplit(".", 1)[-1]}: {headline}
  gate     {verdict}
  drift    {_drift(drift)}

  metrics  dvc metrics show
  report   {reports}/report.html
  drift    {reports}/drift/drift.html
  record   {_recorded(reports)}
  serve    make serve
  try      make exp SET="model=lightgbm", then dvc exp show

Before commands of your own: source .venv/bin/activate"""


def _drift(found: dict[str, Any]) -> str:
    drifted = sum(column["drifted"] for column in found["columns"])
    said = f"{found['outcome']}, {drifted} of {len(found['columns'])} columns drifted in the current window"
    return "\n           ".join([said, *found["reasons"]])


def _recorded(reports: Path) -> str:
    """Where the record is by now: run.json only says which it is."""
    record = read_json(reports / "run.json")["record"]
    done = went(record) if record else None
    if done:
        return f"{done.model} version {done.version}, run {done.run_id}: make ui"
    if record and (outbox() / record).is_dir():
        return f"waits in {outbox() / record}: make deliver"
    return "make ui" if record else "none, tracking is off"


if __name__ == "__main__":
    run_stage(main)
