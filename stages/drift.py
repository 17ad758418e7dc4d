"""The drift stage: has the current window left the reference, does the model still hold, and why. The only importer
of evidently, whose report illustrates; our verdict decides."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from stages.bundle import MODEL, Model, decide, open_bundle
from stages.config import Columns, Config, Drift, load_config
from stages.dataset import Split, SplitName, read_split
from stages.drifting.classifier import domain_auc
from stages.drifting.columns import compare_columns
from stages.drifting.model import Behaviour, calibration_error, calibration_gaps, performance, score_shifts
from stages.drifting.page import render
from stages.drifting.verdict import DriftVerdict, Evidence, drift_verdict, metrics
from stages.drifting.windows import count_windows, write_sample
from stages.errors import DataError, run_stage
from stages.files import PREPARED, REPORTS, replacing, report_text, write_atomically

ORDER: tuple[SplitName, ...] = ("train", "validation", "test", "current")

_UUID = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}(-?)[0-9a-f]{4}\1[47][0-9a-f]{3}\1[89ab][0-9a-f]{3}\1[0-9a-f]{12}(?![0-9a-f])"
)


@dataclass(frozen=True)
class Windows:
    """What is compared. held_out holds the rows that the model is judged on for the reference: it never saw them."""

    reference: tuple[SplitName, ...]
    held_out: SplitName | None
    current: SplitName
    why: str


@dataclass(frozen=True)
class Sides:
    """At most drift.sample rows of each: the reference's features, the held-out rows and the current ones."""

    reference: Split
    held_out: Split | None
    current: Split


def main() -> None:
    started = time.perf_counter()
    config = load_config("drift")
    verdict = run(config, PREPARED, open_bundle(MODEL), REPORTS)
    said = ": ".join([verdict.outcome, *verdict.reasons[:1]])
    more = f" (and {len(verdict.reasons) - 1} more reasons)" if len(verdict.reasons) > 1 else ""
    print(f"drift: {said}{more}, in {time.perf_counter() - started:.1f} s → {REPORTS / 'drift' / 'drift.html'}")


def run(config: Config, prepared: Path, model: Model | None, reports: Path) -> DriftVerdict:
    """Compare the windows in `prepared`, write drift.json and drift/ into `reports`; without a model the data alone."""
    windows = choose_windows(prepared)
    if windows.why:
        print(f"drift: {windows.why} with {' and '.join(windows.reference)}", file=sys.stderr)
    evidence, sides = gather(config, windows, prepared, model)
    verdict = drift_verdict(evidence, config.drift)
    with replacing(reports / "drift") as folder:
        if config.drift.evidently_rows:
            illustrate(sides.reference.X, sides.current.X, config.data.columns, config.drift, folder)
        page = render(config.data.name, evidence, verdict, config.drift.ignore)
        (folder / "drift.html").write_text(page, encoding="utf-8")
        found = report(evidence, verdict, windows, config.drift)
        (folder / "columns.json").write_text(report_text(found), encoding="utf-8")
    write_atomically(reports / "drift.json", report_text(metrics(evidence, verdict)))
    return verdict


def choose_windows(prepared: Path) -> Windows:
    """The current window against all before it; where it has no rows, `test` against train and validation.

    Raises DataError where a file cannot be read or a side has no rows.
    """
    rows = {name: _rows(prepared / f"{name}.parquet") for name in ORDER}
    *before, current = ORDER if rows["current"] else ORDER[:-1]
    why = "" if rows["current"] else "no rows come after the test window, so test itself is compared"
    reference = tuple(name for name in before if rows[name])
    if not reference or not rows[current]:
        empty = ", ".join(f"{name}.parquet" for name, n in rows.items() if n == 0)
        raise DataError(f"{prepared}: nothing to compare, no rows in {empty}; change data.split and run `dvc repro`")
    return Windows(reference, reference[-1] if reference[-1] != "train" else None, current, why)


def gather(config: Config, windows: Windows, prepared: Path, model: Model | None) -> tuple[Evidence, Sides]:
    """Everything that is to be known about the windows; memory does not grow with their rows."""
    columns, limits = config.data.columns, config.drift
    sides = _sample(config, windows, prepared)
    watched = [
        [name for name in names if name not in limits.ignore] for names in (columns.numeric, columns.categorical)
    ]
    counts = count_windows(_files(prepared, windows.reference), _files(prepared, [windows.current]), *watched)
    evidence: dict[str, Any] = {
        "reference": _described(windows.reference, sides.reference),
        "current": _described([windows.current], sides.current) + (f"; {windows.why}" if windows.why else ""),
        "rows_reference": counts.rows[0],
        "rows_current": counts.rows[1],
        "columns": compare_columns(sides.reference.X, sides.current.X, counts, columns, limits),
        "classifier": domain_auc(
            sides.reference.X,
            sides.current.X,
            columns,
            limits.ignore,
            config.seed,
            _times(sides.reference, sides.current),
        ),
    }
    if model is not None and sides.held_out is not None:
        evidence |= _compare_behaviour(model, sides.held_out, sides.current, config)
    return Evidence(**evidence), sides


def behaviour(model: Model, split: Split) -> tuple[Behaviour, Behaviour]:
    """The model on all rows of a window that has one or more, and on those whose label is known."""
    signature = model.signature
    scores = model.scores(split.X)
    predicted = decide(scores, signature)
    time = None if split.time is None else split.time.to_numpy()
    everything = Behaviour(signature.classes, scores, predicted, None, time)
    known = np.ones(len(split), dtype=bool) if split.known is None else split.known
    if not known.any():
        return everything, everything
    days = None if time is None else time[known]
    return everything, Behaviour(signature.classes, scores[known], predicted[known], split.y[known], days)


def report(evidence: Evidence, verdict: DriftVerdict, windows: Windows, limits: Drift) -> dict[str, Any]:
    """Everything as one tree of plain values, the columns in the order of the config."""
    tree = asdict(evidence)
    columns = [{key: value for key, value in column.items() if key != "bars"} for column in tree.pop("columns")]
    for column in columns:
        column["new_categories"] = [{"name": name, "share": share} for name, share in column["new_categories"]]
    return {
        "outcome": verdict.outcome,
        **asdict(verdict),
        "windows": asdict(windows),
        "limits": limits.model_dump(mode="json"),
        **tree,
        "columns": columns,
    }


def illustrate(reference: pd.DataFrame, current: pd.DataFrame, columns: Columns, limits: Drift, folder: Path) -> None:
    """Evidently's own report on the first drift.evidently_rows rows a side, into evidently.html and evidently.json.

    A column without a value on a side is left out, Evidently raises on it. Where it fails on what is left, the files
    say so: it illustrates, and must not stand in the way of the verdict.
    """
    rows = limits.evidently_rows
    names = [name for name in columns.features if name not in limits.ignore]
    sides = [pd.DataFrame({name: _shown(side[name].iloc[:rows]) for name in names}) for side in (reference, current)]
    kept = [name for name in names if all(side[name].notna().any() for side in sides)]
    html, found = folder / "evidently.html", folder / "evidently.json"
    try:
        page, tree = _evidently(sides[0][kept], sides[1][kept], columns)
    except Exception as error:  # Evidently raises many kinds on small or odd windows
        said = f"Evidently could not compare these windows: {type(error).__name__}: {error}"
        page, tree = f"<!doctype html><meta charset='utf-8'><title>Drift</title><p>{escape(said)}", {"error": said}
    html.write_text(page, encoding="utf-8")
    tree["left_out"] = [name for name in names if name not in kept]
    found.write_text(report_text(tree), encoding="utf-8")


def _evidently(reference: pd.DataFrame, current: pd.DataFrame, columns: Columns) -> tuple[str, dict[str, Any]]:
    os.environ["DO_NOT_TRACK"] = "1"  # before the import: it decides on telemetry then
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # its package imports everything it has (5 to 8 CPU-seconds), there is no narrower way in
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=[name for name in columns.numeric if name in reference],
            categorical_columns=[name for name in columns.categorical if name in reference],
        )
        old, new = (Dataset.from_pandas(side, data_definition=definition) for side in (reference, current))
        snapshot = Report([DataDriftPreset()], include_tests=True).run(new, old)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "evidently.html"
            snapshot.save_html(str(file))
            page = file.read_text(encoding="utf-8")
        return _without_chance(page), json.loads(snapshot.json())


def _without_chance(page: str) -> str:
    """The same page with the random ids (UUIDs of version 4 and 7) numbered instead."""
    seen: dict[str, str] = {}
    return _UUID.sub(lambda match: seen.setdefault(match[0], f"{len(seen):032x}"), page)


def _shown(values: pd.Series) -> pd.Series:
    """A column as Evidently takes it: infinite numbers and "" are missing."""
    if values.dtype == object:
        return values.where(values != "", None).reset_index(drop=True)
    return values.where(np.isfinite(values)).reset_index(drop=True)


def _sample(config: Config, windows: Windows, prepared: Path) -> Sides:
    def read(names: Sequence[SplitName], as_name: SplitName) -> Split:
        write_sample(_files(prepared, names), folder / f"{as_name}.parquet", config.drift.sample, config.seed)
        return read_split(config.data.columns, config.data.task, as_name, folder)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        held_out = read([windows.held_out], windows.held_out) if windows.held_out else None
        return Sides(read(windows.reference, "train"), held_out, read([windows.current], windows.current))


def _compare_behaviour(model: Model, held_out: Split, current: Split, config: Config) -> dict[str, Any]:
    (all_old, old), (all_new, new) = behaviour(model, held_out), behaviour(model, current)
    confidence = 1 - config.drift.alpha
    return {
        "scores": score_shifts(all_old, all_new),
        "calibration": calibration_gaps(old, new, confidence),
        "errors": (calibration_error(old), calibration_error(new)),
        "performance": performance(old, new, config.evaluate.primary, confidence, config.seed),
    }


def _described(names: Sequence[str], split: Split) -> str:
    listed = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
    if split.time is None or split.time.isna().all():
        return listed
    return f"{listed} ({split.time.min():%Y-%m-%d} to {split.time.max():%Y-%m-%d})"


def _times(reference: Split, current: Split) -> tuple[pd.Series, pd.Series] | None:
    return None if reference.time is None or current.time is None else (reference.time, current.time)


def _files(prepared: Path, names: Sequence[str]) -> list[Path]:
    return [prepared / f"{name}.parquet" for name in names]


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; run `dvc repro prepare`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({error}); run `dvc repro -f prepare`") from None


if __name__ == "__main__":
    run_stage(main)
