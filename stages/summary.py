"""What a finished pipeline says to the person who ran it: how good the model is, and where to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.config import read_params
from stages.errors import run_stage
from stages.files import read_json
from stages.reporting.wording import worded

REPORTS = Path("data/reports")


def main() -> None:
    print(summary(read_params(), REPORTS))


def summary(params: dict[str, Any], reports: Path) -> str:
    """A dozen lines: headline metric, gate, drift, and the paths and commands to go on with."""
    metrics, gate, drift = (read_json(reports / f"{name}.json") for name in ("metrics", "gate", "drift"))
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
  drift    {"the current window has drifted" if drift["drifted"] else "none that matters in the current window"}

  metrics  dvc metrics show
  report   {reports}/report.html
  drift    {reports}/drift/drift.html
  record   make ui
  serve    make serve
  try      make exp SET="model=lightgbm", then dvc exp show

Before commands of your own: source .venv/bin/activate"""


if __name__ == "__main__":
    run_stage(main)
