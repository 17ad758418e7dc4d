"""The verdict on drift, with reasons: from what was found about columns, the two windows and the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from stages.config import Drift
from stages.drifting.columns import Finding
from stages.drifting.model import Change, ScoreShift, in_units_of_target


@dataclass(frozen=True)
class Evidence:
    """All that was found. reference and current name the windows in words; classifier is an AUC or None.

    scores, calibration and performance are empty or None where there is no model or no label; errors are the
    calibration errors of the two windows (None without labels).
    """

    reference: str
    current: str
    rows_reference: int
    rows_current: int
    columns: tuple[Finding, ...]
    classifier: float | None
    scores: tuple[ScoreShift, ...] = ()
    calibration: tuple[Change, ...] = ()
    errors: tuple[float | None, float | None] = (None, None)
    performance: Change | None = None


Outcome = Literal["broken inputs", "drift", "stable"]


@dataclass(frozen=True)
class DriftVerdict:
    """drifted: the world or the model changed, and by enough. broken: columns no longer delivered as they were.

    Both can be, and then the inputs are to be mended first: drift cannot be told from their fault. reasons are the
    sentences that decided, on broken columns first. notes are worth knowing besides.
    """

    drifted: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    broken: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """What to call it: `broken inputs` asks for another answer than `drift`, which training again may cure."""
        return "broken inputs" if self.broken else "drift" if self.drifted else "stable"


def drift_verdict(evidence: Evidence, limits: Drift) -> DriftVerdict:
    """Drifted where enough columns are, a classifier tells the windows apart, or the model got worse.

    A shift of the scores decides only where no label says whether the model is still right. A column is broken on its
    own, however many others there are.
    """
    broken = [f"{column.name} is broken: {column.broken}" for column in evidence.columns if column.broken]
    reasons: list[str] = []
    notes: list[str] = [f"{column.name}: {column.reason}" for column in evidence.columns if column.reason]
    drifted = [column.name for column in evidence.columns if column.drifted]
    share = share_drifted(evidence.columns)
    if drifted and share >= limits.share:
        reasons.append(
            f"{len(drifted)} of {len(evidence.columns)} columns drifted ({share:.0%}, limit {limits.share:.0%}): "
            f"{', '.join(drifted)}"
        )
    area = evidence.classifier
    if area is not None and area > limits.classifier:
        reasons.append(
            f"a classifier tells the two windows apart with an area under the curve of {area:.3f} "
            f"(limit {limits.classifier:g}); most changed are {_most_changed(evidence.columns)}"
        )
    reasons += _calibration(evidence.calibration, limits)
    reasons += _performance(evidence.performance, limits)
    shifts = list(_scores(evidence.scores, limits))
    labels = bool(evidence.calibration) or evidence.performance is not None
    (notes if labels else reasons).extend(shifts)
    notes += _unknown(evidence.performance)
    names = tuple(column.name for column in evidence.columns if column.broken)
    return DriftVerdict(bool(reasons), (*broken, *reasons), tuple(notes), names)


def _most_changed(columns: Sequence[Finding]) -> str:
    ranked = sorted(columns, key=lambda column: (-column.distance, column.name))[:3]
    return ", ".join(f"{column.name} (distance {column.distance:.2f})" for column in ranked)


def share_drifted(columns: Sequence[Finding]) -> float:
    """The share of the looked-at columns that drifted; 0 where there is none."""
    return sum(column.drifted for column in columns) / len(columns) if columns else 0.0


def metrics(evidence: Evidence, verdict: DriftVerdict) -> dict[str, float | int]:
    """Flat numbers for DVC and MLflow; a figure that does not exist is left out."""
    performance = evidence.performance
    found: dict[str, float | int | None] = {
        "drifted": int(verdict.drifted),
        "columns_drifted": sum(column.drifted for column in evidence.columns),
        "columns_broken": len(verdict.broken),
        "share_drifted": share_drifted(evidence.columns),
        "classifier_auc": evidence.classifier,
        "score_distance": max((shift.distance for shift in evidence.scores), default=None),
        "calibration_gap": _widest(evidence.calibration),
        "calibration_error": evidence.errors[1],
        "primary_current": performance.current if performance else None,
        "primary_reference": performance.reference if performance else None,
        "primary_change": performance.change if performance else None,
        "rows_reference": evidence.rows_reference,
        "rows_current": evidence.rows_current,
    }
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def _widest(gaps: Sequence[Change]) -> float | None:
    return max((gap.current for gap in gaps), key=abs) if gaps else None


def _calibration(gaps: Sequence[Change], limits: Drift) -> Iterator[str]:
    for gap in gaps:
        worse = abs(gap.current) > abs(gap.reference)
        if worse and gap.certain and abs(gap.change) >= limits.calibration:
            yield (
                f"calibration of {gap.name}: predicted minus observed went from {gap.reference:+.3f} to "
                f"{gap.current:+.3f} (change {gap.change:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}], "
                f"limit {limits.calibration:g})"
            )


def _performance(change: Change | None, limits: Drift) -> Iterator[str]:
    if change is None:
        return
    relative = in_units_of_target(change.name)
    minimum = limits.performance * (abs(change.reference) if relative else 1.0)
    if change.high < 0 and -change.change >= minimum:
        limit = f"{limits.performance:.0%} of the reference" if relative else f"{limits.performance:g}"
        yield (
            f"performance: {change.name} went from {change.reference:.4g} to {change.current:.4g} "
            f"(change {change.change:+.4g} [{change.low:+.4g}, {change.high:+.4g}], limit {limit})"
        )


def _unknown(change: Change | None) -> Iterator[str]:
    if change is not None and not isfinite(change.low):
        yield (
            f"performance: {change.name} went from {change.reference:.4g} to {change.current:.4g}; it is not defined "
            "on enough resamples of the rows to tell that from chance"
        )


def _scores(shifts: Sequence[ScoreShift], limits: Drift) -> Iterator[str]:
    for shift in shifts:
        if shift.p <= limits.alpha and shift.distance >= limits.effect:
            yield f"scores of {shift.name} moved (distance {shift.distance:.2f}, limit {limits.effect:g})"
