"""What a finished pipeline says to the person who ran it: how good the model is, and where to look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.config import read_params
from stages.errors import run_stage

REPORTS = Path("data/reports")


def main() -> None:
    print(summary(read_params(), REPORTS))


def summary(params: dict[str, Any], reports: Path) -> str:
    """A dozen lines: headline metric, gate, drift, and the paths and commands to go on with."""
    metrics, gate, drift = (_read(reports / f"{name}.json") for name in ("metrics", "gate", "drift"))
    primary = params["evaluate"]["primary"]
    low, high = metrics["test_low"][primary], metrics["test_high"][primary]
    verdict = "passed" if gate["passed"] else "not passed: " + " ".join(gate["reasons"])
    drifted = "the current window has drifted" if drift["drifted"] else "no drift in the current window"
    return f"""
{params["data"]["title"]}
  model    {params["model"]["_target_"].rsplit(".", 1)[-1]}, {primary} {metrics["test"][primary]:.3f} \
[{low:.3f}, {high:.3f}] on test; dummy {metrics["dummy"][primary]:.3f}
  gate     {verdict}
  drift    {drifted}

  metrics  dvc metrics show, dvc exp show
  report   {reports}/report.html
  drift    {reports}/drift/drift.html
  record   make ui
  serve    make serve
  try      dvc exp run -S model=lightgbm, dvc exp run -S model.max_depth=12
"""


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    run_stage(main)
