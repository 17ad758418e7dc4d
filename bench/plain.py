"""The work of the pipeline as one plain script: the same functions in one process, without DVC, Hydra or stages.

python -m bench.plain            everything, printing the seconds of each step as JSON
python -m bench.plain fit        only the model's own fit, on data that is there already
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stages.config import read_params, validate
from stages.dataset import read_split

STEPS = ("ingest", "prepare", "train", "evaluate", "drift", "record")


def main() -> None:
    if sys.argv[1:] == ["fit"]:
        print(json.dumps({"fit": fit_alone()}))
        return
    print(json.dumps({name: _timed(_step(name)) for name in STEPS}))


def _step(name: str) -> Callable[[], None]:
    """The stage's own main, imported when its turn comes, as a script would at its top."""
    import importlib

    return importlib.import_module(f"stages.{name}").main  # type: ignore[no-any-return]


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fit_alone() -> float:
    """Seconds of `pipeline.fit` on the train split, everything else done before."""
    from stages.nodes import build_pipeline

    config = validate(read_params())
    train = read_split(config.data.columns, config.data.task, "train", Path("data/prepared"))
    pipeline = build_pipeline(config.features, config.model, config.train.targets)
    started = time.perf_counter()
    pipeline.fit(train.X, train.y)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
