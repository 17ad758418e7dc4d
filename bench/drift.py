"""Drift on tables far larger than memory should matter: wall, CPU and peak memory of our part (no model).

    python bench/drift.py [--rows 10000000] [--current 0.3]

Makes a reference and a current window with 12 numeric and 3 categorical columns in a temporary folder, by DuckDB.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stages import config as typed

NUMERIC = 12
CATEGORICAL = {"small": 5, "middle": 300, "large": 100_000}


def make(folder: Path, rows: int, share: float) -> None:
    """train.parquet and current.parquet with `rows` rows together, and empty validation and test."""
    import duckdb

    numbers = [f"case when random() < 0.02 then null else random() * {k + 1} end as n{k}" for k in range(NUMERIC)]
    words = [f"'c' || cast(floor(pow(random(), 2) * {n}) as bigint) as {name}" for name, n in CATEGORICAL.items()]
    select = f"select random() < 0.2 as target, {', '.join([*numbers, *words])} from range($ROWS)"
    counts = {"train": round(rows * (1 - share)), "validation": 0, "test": 0, "current": round(rows * share)}
    with duckdb.connect(config={"memory_limit": "2GB"}) as connection:
        connection.execute("select setseed(0.5)")
        for name, n in counts.items():
            source = select.replace("$ROWS", str(n))
            connection.execute(f"copy ({source}) to '{folder / f'{name}.parquet'}' (format parquet)")


def configured() -> typed.Config:
    with initialize_config_dir(str(Path("conf").absolute()), version_base=None):
        tree = OmegaConf.to_container(compose("config"), resolve=True)
    assert isinstance(tree, dict)
    tree["data"]["columns"] = {
        "target": "target", "time": None, "key": [], "passthrough": [],
        "numeric": {f"n{k}": {} for k in range(NUMERIC)}, "categorical": {name: {} for name in CATEGORICAL},
    }  # fmt: skip
    tree["data"] |= {"slices": [], "split": {"by": "predefined", "test": 0, "validation": 0, "current": 0,
                                             "groups": None, "column": "part"}}  # fmt: skip
    tree["drift"]["evidently_rows"] = 0
    return typed.validate({str(key): value for key, value in tree.items()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--current", type=float, default=0.3, help="share of the rows in the current window")
    asked = parser.parse_args()
    config = configured()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        child = os.fork()  # the maker's memory must not count
        if child == 0:
            make(folder, asked.rows, asked.current)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("bench: the table could not be made")
        size = sum(file.stat().st_size for file in folder.glob("*.parquet")) / 1e6
        wall, cpu = time.perf_counter(), time.process_time()
        from stages.drift import run

        imported = time.process_time() - cpu
        verdict = run(config, folder, None, folder / "reports")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{asked.rows:,} rows x {NUMERIC + len(CATEGORICAL)} columns, {size:,.0f} MB of Parquet: {wall:.1f} s wall, "
        f"{cpu:.1f} CPU-s ({imported:.1f} of them imports), peak {peak:,.0f} MB; drifted: {verdict.drifted}"
    )


if __name__ == "__main__":
    main()
