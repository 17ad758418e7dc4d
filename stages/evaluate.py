"""Say how good the model is on unseen rows: metrics with intervals, slices, plots, the gate's verdict, a report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.bundle import MODEL, Model, Signature, bundle_md5, decide, open_bundle
from stages.config import Config, load_config
from stages.dataset import Split, read_split
from stages.errors import DataError, ModelError, run_stage
from stages.files import PREPARED, REPORTS, read_json, replacing, report_text, write_atomically
from stages.gate import Contest, Verdict, judge
from stages.reporting.curves import Points, curves
from stages.reporting.importance import permutation_importance
from stages.reporting.page import Findings, MetricRow, page
from stages.reporting.plots import Setting, draw
from stages.reporting.slices import sliced
from stages.reporting.wording import worded
from stages.resampling import Interval, draws, enough, interval, units_of
from stages.scorers import check_metrics
from stages.scoring import Array, Predictions, classified, regressed, score_of
from stages.store import find_bundle


@dataclass(frozen=True)
class Scored:
    """Each metric of each model on the test split, and its draws on the same resamples."""

    intervals: dict[str, dict[str, Interval]]
    drawn: dict[str, dict[str, Array]]
    units: str
    confidence: float

    def between(self, metric: str, combined: Callable[..., Array], *others: str) -> Interval:
        """What `combined` makes of the candidate's metric and that of the others, on the same rows."""
        models = ("candidate", *others)
        values = [self.intervals[model][metric].value for model in models]
        value = combined(*(math.nan if figure is None else figure for figure in values))
        return interval(float(value), combined(*(self.drawn[model][metric] for model in models)), self.confidence)


def main() -> None:
    started = time.perf_counter()
    config = load_config("evaluate")
    check_metrics(config.evaluate.metrics, config.data.task.name)
    findings = evaluate(config, open_bundle(MODEL), MODEL, PREPARED)
    write(findings, REPORTS)
    word, test = worded(config.evaluate.primary), findings.headline.test
    print(
        f"evaluate: {word.name} {word.figure(test.value)} ({word.limits(test.low, test.high)}) on "
        f"{findings.rows_test:,} rows, gate {'passed' if findings.verdict.passed else 'not passed'}, "
        f"in {time.perf_counter() - started:.1f} s → {REPORTS / 'report.html'}"
    )


def evaluate(config: Config, model: Model, folder: Path, prepared: Path) -> Findings:
    """Everything that the reports hold. Raises DataError for an empty test split, ModelError for a lost champion."""
    asked, columns, task = config.evaluate, config.data.columns, config.data.task
    validation, test = (read_split(columns, task, name, prepared) for name in ("validation", "test"))
    if not len(test):
        raise DataError(f"{prepared / 'test.parquet'}: no rows to evaluate on; see data.split.test")
    candidate = predictions(model, test.X, test.y)
    contestants = {"candidate": candidate, "dummy": dummy(model.signature, _train_y(config, prepared), test.y)}
    champion, obstacle = _champion(config, model.signature, test)
    if champion is not None:
        contestants["champion"] = champion
    scored = score(contestants, asked.metrics, test, config)
    importance = _importance(config, model, test)
    on_validation = score_all(predictions(model, validation.X, validation.y), asked.metrics) if len(validation) else {}
    return Findings(
        title=config.data.title,
        signature=model.signature,
        provenance=model.provenance,
        md5=bundle_md5(folder),
        profile=_profile(),
        metrics=tuple(
            MetricRow(name, scored.intervals["candidate"][name], on_validation.get(name), *_others(scored, name))
            for name in asked.metrics
        ),
        primary=asked.primary,
        confidence=asked.confidence,
        units=scored.units,
        rows_test=len(test),
        rows_validation=len(validation),
        verdict=verdict(config, scored, obstacle),
        slices=sliced(test, candidate, config.evaluate, config.seed),
        points={**curves(candidate, config.seed), "importance": importance},
    )


def predictions(model: Model, X: pd.DataFrame, y: Array) -> Predictions:
    """One call of the model; binary labels by the signature's threshold."""
    scores = model.scores(X)
    labels = decide(scores, model.signature)
    if model.signature.classes is None:
        return regressed(y, labels)
    return classified(y, labels, scores, model.signature.classes)


def dummy(signature: Signature, train_y: Array, y: Array) -> Predictions:
    """The floor: what one says of a row without a look at it, the shares of the classes (or the mean) in training."""
    if signature.classes is None:
        return regressed(y, np.full(len(y), np.mean(train_y)))
    labels = np.asarray(train_y, dtype="object")
    shares = np.array([np.mean(labels == label) for label in signature.classes])
    said = np.array([signature.classes[int(shares.argmax())]] * len(y), dtype="object")
    return classified(y, said, np.tile(shares, (len(y), 1)), signature.classes)


def _train_y(config: Config, prepared: Path) -> Array:
    return read_split(config.data.columns, config.data.task, "train", prepared).y


def score(contestants: dict[str, Predictions], metrics: tuple[str, ...], test: Split, config: Config) -> Scored:
    """Every metric of every model, over the same resamples; the primary one, which decides, over more of them."""
    asked = config.evaluate
    units, unit = units_of(None if test.time is None else test.time.to_numpy(), len(test))
    rows = np.ones(len(test))
    intervals: dict[str, dict[str, Interval]] = {model: {} for model in contestants}
    drawn: dict[str, dict[str, Array]] = {model: {} for model in contestants}
    for name in metrics:
        resamples = enough(asked.confidence, asked.resamples) if name == asked.primary else asked.resamples
        scores = {model: score_of(name, predicted) for model, predicted in contestants.items()}
        for model, values in draws(scores, units, resamples, config.seed).items():
            drawn[model][name] = values
            intervals[model][name] = interval(scores[model](rows), values, asked.confidence)
    return Scored(intervals, drawn, unit, asked.confidence)


def score_all(p: Predictions, metrics: tuple[str, ...]) -> dict[str, float | None]:
    """The metrics of one model; None where undefined."""
    values = {name: score_of(name, p)(p.rows) for name in metrics}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _others(scored: Scored, name: str) -> tuple[float | None, float | None]:
    champion = scored.intervals.get("champion")
    return scored.intervals["dummy"][name].value, champion[name].value if champion else None


def verdict(config: Config, scored: Scored, obstacle: str | None) -> Verdict:
    """The gate's verdict on the primary metric."""
    primary, margin = config.evaluate.primary, config.evaluate.gate.margin
    figures = {model: intervals[primary] for model, intervals in scored.intervals.items()}
    over_champion = room = None
    if "champion" in figures:

        def left(candidate: Array, champion: Array, dummy: Array) -> Array:
            return np.asarray(candidate - champion + margin * np.maximum(champion - dummy, 0))

        over_champion = scored.between(primary, np.subtract, "champion")
        room = scored.between(primary, left, "champion", "dummy")
    contest = Contest(
        primary,
        figures["candidate"],
        figures["dummy"],
        scored.between(primary, np.subtract, "dummy"),
        figures.get("champion"),
        over_champion,
        room,
        obstacle,
    )
    return judge(contest, margin)


def _champion(config: Config, candidate: Signature, test: Split) -> tuple[Predictions | None, str | None]:
    """Its predictions, or why there are none. One that is not here is an error: DVC would keep such a verdict."""
    md5 = config.evaluate.gate.champion
    if md5 is None:
        return None, None
    try:
        model = open_bundle(find_bundle(md5))
    except ModelError as error:
        raise ModelError(f"evaluate.gate.champion: {error}; or set it to null") from None
    reason = misfit(model.signature, candidate, test.X)
    if reason is None:
        return predictions(model, test.X, test.y), None
    return None, f"The champion cannot be compared: {reason}. Set evaluate.gate.champion to null to go on without it."


def misfit(champion: Signature, candidate: Signature, X: pd.DataFrame) -> str | None:
    """Why a champion cannot answer for these rows; None where it can."""
    if (champion.task, champion.target) != (candidate.task, candidate.target):
        return f"it predicts {champion.target} ({champion.task}), not {candidate.target} ({candidate.task})"
    if set(champion.classes or ()) != set(candidate.classes or ()):
        return f"its classes are {_listed(champion.classes)}, not {_listed(candidate.classes)}"
    absent = [column.name for column in champion.columns if column.name not in X.columns]
    if absent:
        return f"it needs {', '.join(absent)}, which the data no longer have"
    kinds = {name: "categorical" if X[name].dtype == "object" else "numeric" for name in X.columns}
    changed = [column.name for column in champion.columns if kinds[column.name] != column.kind]
    return f"{', '.join(changed)} changed between numeric and categorical" if changed else None


def _listed(classes: tuple[int | str, ...] | None) -> str:
    return ", ".join(str(label) for label in classes or ())


def _importance(config: Config, model: Model, test: Split) -> Points:
    asked = config.evaluate.importance
    rows = np.sort(np.random.default_rng(config.seed).permutation(len(test))[: asked.rows])
    X = test.X.iloc[rows].reset_index(drop=True)
    return permutation_importance(
        X, lambda X, y: predictions(model, X, y), test.y[rows], config.evaluate.primary, asked.repeats, config.seed
    )


def _profile() -> dict[str, Any] | None:
    path = REPORTS / "profile.json"
    return read_json(path) if path.exists() else None


def write(findings: Findings, folder: Path) -> None:
    """metrics.json, gate.json, report.html and evaluate/ (the plots as points and as pictures)."""
    signature = findings.signature
    setting = Setting(signature.target, findings.primary, signature.classes is not None, signature.threshold)
    pictures = draw(findings.points, setting)
    with replacing(folder / "evaluate") as plots:
        for name, points in findings.points.items():
            (plots / f"{name}.json").write_text(report_text(points), encoding="utf-8")
        (plots / "slices.json").write_text(report_text([part.tree() for part in findings.slices]), encoding="utf-8")
        for name, picture in pictures.items():
            (plots / f"{name}.png").write_bytes(picture.png)
    write_atomically(folder / "gate.json", report_text(findings.verdict.tree()))
    write_atomically(folder / "metrics.json", report_text(findings.tree()))
    write_atomically(folder / "report.html", page(findings, pictures))


if __name__ == "__main__":
    run_stage(main)
