"""Metrics as people say them: a name, and whether less is better."""

from __future__ import annotations

from dataclasses import dataclass

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

_NAMES = {
    "roc_auc": "ROC AUC",
    "roc_auc_ovr": "ROC AUC (each class against the rest)",
    "average_precision": "average precision",
    "neg_log_loss": "log loss",
    "neg_brier_score": "Brier score",
    "f1": "F1",
    "f1_macro": "F1 (mean of the classes)",
    "r2": "R²",
    "neg_root_mean_squared_error": "root mean squared error",
}
_MEANINGS = {
    "roc_auc": "how often a positive case gets the higher score than a negative one; 0.5 is chance, 1 is perfect",
    "average_precision": "precision averaged over all recalls; chance is the share of positives",
    "neg_log_loss": "how far the probabilities are from what happened; 0 is perfect",
    "neg_brier_score": "the mean squared error of the probabilities; 0 is perfect",
    "neg_root_mean_squared_error": "the typical error, in the target's own unit; large errors weigh more",
    "neg_mean_absolute_error": "the mean error, in the target's own unit",
    "r2": "the share of the target's variance that is explained; 1 is perfect",
    "accuracy": "the share of right answers",
    "balanced_accuracy": "the share of right answers, every class counting the same",
    "f1": "the harmonic mean of precision and recall",
}


@dataclass(frozen=True)
class Wording:
    """sign turns scikit-learn's greater-is-better figure into the one people know."""

    name: str
    meaning: str
    sign: int

    def figure(self, value: float | None) -> str:
        """The figure as people read it."""
        return DASH if value is None else number(value * self.sign)

    def limits(self, low: float | None, high: float | None) -> str:
        """`0.69 to 0.72`, the lower figure first."""
        if low is None or high is None:
            return DASH
        first, last = sorted([low * self.sign, high * self.sign])
        return f"{number(first)} to {number(last)}"


def worded(metric: str) -> Wording:
    """A scorer's name as people say it; what is not known here keeps its own words."""
    less_is_better = metric.startswith("neg_")
    plain = metric.removeprefix("neg_").replace("_", " ")
    return Wording(_NAMES.get(metric, plain), _MEANINGS.get(metric, ""), -1 if less_is_better else 1)


def number(value: float) -> str:
    """Three decimals below 10, fewer above; never "-0.000"."""
    size = abs(value)
    places = 3 if size < 10 else 1 if size < 1000 else 0
    text = f"{value:,.{places}f}"
    return text.lstrip("-").replace("-", "") if not text.strip("-0.,") else text.replace("-", MINUS)
