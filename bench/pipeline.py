"""What the framework costs: `dvc repro` on the flights against the same work as one plain script, interleaved.

python -m bench.pipeline [ROUNDS]     writes bench/pipeline.md
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import Run, machine, run, spread

HERE = Path(__file__).resolve().parent.parent
PAGE = HERE / "bench" / "pipeline.md"
STAGES = ("configure", "ingest", "prepare", "train", "evaluate", "drift", "record")
DEPTHS = (11, 9, 12, 8, 13, 7, 14, 6)  # one model parameter, another value each round


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    started = machine()
    with tempfile.TemporaryDirectory() as folder:
        home = clone(Path(folder) / "pinwerk")
        env = environment()
        taken: dict[str, list[Run]] = {}
        for number in range(rounds):
            for name, figure in one_round(home, env, number).items():
                taken.setdefault(name, []).append(figure)
                print(f"round {number + 1}: {name}: {figure.wall:.1f} s wall, {figure.cpu:.1f} s CPU", flush=True)
    PAGE.write_text(page(started, rounds, taken), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def clone(home: Path) -> Path:
    """A repository with what is here, but for what Git ignores, committed."""
    files = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, files.split("\0")):
        if (HERE / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, home / name)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "bench"],
    ):
        subprocess.run(["git", *command], cwd=home, check=True)
    return home


def environment() -> dict[str, str]:
    """This environment with the interpreter's folder first on PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


def one_round(home: Path, env: dict[str, str], number: int) -> dict[str, Run]:
    """Everything once, each from the same start; what is compared goes first in turns."""
    python, depth = sys.executable, DEPTHS[number % len(DEPTHS)]
    found: dict[str, Run] = {}
    _forget(home)
    script = [python, "-W", "ignore", "-m", "bench.script", str(home / f"data/.script-{number}")]
    if number % 2:
        found["plain script"] = run(script, home, env)
    found["dvc repro"] = run(["dvc", "repro"], home, env)
    if not number % 2:
        found["plain script"] = run(script, home, env)
    found["no-op"] = run(["dvc", "repro"], home, env)
    for stage in STAGES:
        found[f"stage {stage}"] = run([python, "-m", f"stages.{stage}"], home, env)
    found["one process"] = run([python, "-m", "bench.plain"], home, env)
    subprocess.run(["dvc", "checkout", "-q", "--force"], cwd=home, env=env, check=True)
    conf = home / "conf/model/random_forest.yaml"
    before = conf.read_text(encoding="utf-8")
    conf.write_text(before.replace("max_depth: 10", f"max_depth: {depth}"), encoding="utf-8")
    found["new metrics"] = run(["dvc", "repro", "evaluate"], home, env)
    fit = run([python, "-m", "bench.plain", "fit"], home, env)
    found["its fit"] = Run(json.loads(fit.out.splitlines()[-1])["fit"], fit.cpu, fit.peak, "")
    conf.write_text(before, encoding="utf-8")
    return found


def _forget(home: Path) -> None:
    """Back to a fresh clone: no outputs, no cache, no record."""
    for name in ("data/raw", "data/prepared", "data/model", "data/reports", ".dvc/cache", ".dvc/tmp", "mlartifacts"):
        shutil.rmtree(home / name, ignore_errors=True)
    for name in ("dvc.lock", "mlflow.db", "data/query.sql"):
        (home / name).unlink(missing_ok=True)


def page(started: str, rounds: int, taken: dict[str, list[Run]]) -> str:
    """The page of figures: medians, spread, ratios round by round."""
    rows = "\n".join(_row(name, runs) for name, runs in taken.items() if name != "its fit")
    full = ratios(taken, "dvc repro", "plain script")
    orchestration = ratios(taken, "dvc repro", "one process")
    changed = ratios(taken, "new metrics", "its fit")
    fit = statistics.median(r.wall for r in taken["its fit"])
    noop = [r.wall for r in taken["no-op"]]
    return f"""# What the framework costs

`python -m bench.pipeline {rounds}`, {started}. Medians of {rounds} interleaved rounds, least and most in
brackets. The default pipeline on the flights; CPU is that of the process tree, memory that of the largest process.

| | wall, s | CPU, s | peak, MB |
|---|---|---|---|
{rows}

| ratio, round by round | median (least to most) | aim |
|---|---|---|
| `dvc repro` / a script without a framework, wall | {spread(full, ".2f")} | at most 1.3 |
| `dvc repro` / the stages' own functions in one process, wall | {spread(orchestration, ".2f")} | |
| a parameter of the model changed → new metrics / the model's own fit ({fit:.1f} s), wall | {spread(changed, ".2f")} \
| under 1.5 |
| `dvc repro` with nothing to do, s | {spread(noop, ".2f")} | under 2 |

The plain script (bench/script.py) is what a person would write: the same query, model, metrics, plots, Evidently page
and MLflow run, with pandas and scikit-learn, and nothing of ours. It has no contracts, no leakage check, no intervals
by day, no compiled graph with its proof, no gate, no snapshots. "One process" (bench/plain.py) is all that the stages
do in one process: no DVC, no hashing, imports paid once; the ratio to it is the price of seven processes and DVC.
"""


def _row(name: str, runs: list[Run]) -> str:
    wall, cpu = spread([r.wall for r in runs]), spread([r.cpu for r in runs])
    return f"| {name} | {wall} | {cpu} | {max(r.peak for r in runs):,.0f} |"


def ratios(taken: dict[str, list[Run]], above: str, below: str) -> list[float]:
    """wall / wall, pair by pair."""
    return [a.wall / b.wall for a, b in zip(taken[above], taken[below], strict=True)]


if __name__ == "__main__":
    main()
