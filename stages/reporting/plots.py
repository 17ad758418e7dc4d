"""The plots as pictures: PNG for DVC, CML and MLflow, SVG that follows the report's light or dark colours.

The same points give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.patches
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stages.reporting.curves import Points
from stages.reporting.wording import number, worded

INK, MUTED, GRID, PAPER = "#1f2a37", "#667384", "#dde2e8", "#ffffff"
SERIES = ("#2a6fb0", "#d9702c", "#3a8f5c", "#8a5bb0", "#b8465a", "#24929b", "#a17d1c", "#7a6a5f")
ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", **{c: f"s{k}" for k, c in enumerate(SERIES)}}
"""Each colour of a picture is a CSS variable of the page."""
SIZE, SHOWN = (5.2, 4.0), 15  # inches; bars of importance
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pinwerk",
}


@dataclass(frozen=True)
class Picture:
    title: str
    png: bytes
    svg: str


@dataclass(frozen=True)
class Setting:
    """What a plot says besides its points."""

    target: str
    primary: str
    classified: bool
    threshold: float | None = None


def draw(points: dict[str, Points], setting: Setting) -> dict[str, Picture]:
    """A picture of every plot that has points."""
    with mpl.rc_context(STYLE):
        return {name: _picture(*DRAWN[name], rows, setting) for name, rows in points.items() if rows}


def _picture(title: str, plot: Callable[[Axes, Points, Setting], None], points: Points, setting: Setting) -> Picture:
    figure = Figure(figsize=SIZE, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    plot(axes, points, setting)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    figure.savefig(png, format="png", dpi=144, metadata={"Software": None})
    return Picture(title, png.getvalue(), _inline(svg.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """The <svg> element alone: fluid, colours as CSS variables, the page's own font, a name for screen readers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
    body = re.sub(r' id="(?!m|p|C|image)[a-z]+[a-z_.0-9]*"', "", body)
    body = body.replace("'DejaVu Sans', sans-serif", "inherit").replace("'DejaVu Sans'", "inherit")
    for colour, role in ROLES.items():
        body = body.replace(colour, f"var(--{role})")
    return body.replace("<svg", f'<svg role="img" aria-label="{title}"', 1).strip()


def _by_class(points: Points) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for point in points:
        found.setdefault(point["class"], []).append(point)
    return found


def _column(points: Points, name: str) -> list[Any]:
    return [point[name] for point in points]


def _colour(position: int) -> str:
    return SERIES[position] if position < len(SERIES) else MUTED


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x, ylabel=y)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", ".25", ".5", ".75", "1"])
    axes.set_yticks(ticks, ["0", ".25", ".5", ".75", "1"])


def _names(axes: Axes, target: str, **place: Any) -> None:
    """The series' names in their own colours, where there is more than one; a list too long for that stays away."""
    handles, _ = axes.get_legend_handles_labels()
    if 1 < len(handles) <= len(SERIES):
        axes.legend(title=target, labelcolor="linecolor", handlelength=1.2, alignment="left", **place)


def _roc(axes: Axes, points: Points, setting: Setting) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    axes.text(0.62, 0.57, "chance", color=MUTED, fontsize=9)
    for k, (name, curve) in enumerate(_by_class(points).items()):
        x, y = _column(curve, "false_positive_rate"), _column(curve, "true_positive_rate")
        axes.plot(x, y, color=_colour(k), label=name, clip_on=False)
    _unit_square(axes, "false alarms among the negatives", "found among the positives")
    _names(axes, setting.target, loc="lower right")


def _precision_recall(axes: Axes, points: Points, setting: Setting) -> None:
    groups = _by_class(points)
    for k, (name, curve) in enumerate(groups.items()):
        x, y = _column(curve, "recall"), _column(curve, "precision")
        axes.plot(x, y, color=_colour(k), label=name, clip_on=False)
        if len(groups) == 1:
            axes.axhline(y[-1], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
            axes.text(0.02, y[-1] + 0.02, f"chance: {y[-1]:.0%} are positive", color=MUTED, fontsize=9)
    _unit_square(axes, "recall: found among the positives", "precision: right among the alarms")
    _names(axes, setting.target, loc="lower left")


def _calibration(axes: Axes, points: Points, setting: Setting) -> None:
    ends = [v for point in points for v in (point["predicted"], point["observed"], point["low"], point["high"])]
    low, high = min(ends), max(ends)
    if low >= 0 and high <= 1:
        low, high = 0.0, min(1.0, high * 1.05)
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    for k, (name, curve) in enumerate(_by_class(points).items()):
        x, y = _column(curve, "predicted"), _column(curve, "observed")
        axes.vlines(x, _column(curve, "low"), _column(curve, "high"), color=_colour(k), linewidth=1.2, alpha=0.6)
        axes.plot(x, y, color=_colour(k), marker="o", markersize=4.5, linewidth=1.4, label=name)
    axes.set(
        xlabel="predicted probability" if setting.classified else "mean prediction",
        ylabel="how often it happened" if setting.classified else "mean of what happened",
    )
    axes.text(0.98, 0.03, "dashed: as predicted", transform=axes.transAxes, ha="right", color=MUTED, fontsize=9)
    _names(axes, setting.target, loc="upper left")


def _confusion(axes: Axes, points: Points, setting: Setting) -> None:
    names = list(dict.fromkeys(_column(points, "actual")))
    total = {name: sum(point["rows"] for point in points if point["actual"] == name) for name in names}
    small = len(names) > 6
    for point in points:
        x, y = names.index(point["predicted"]), names.index(point["actual"])
        share = point["rows"] / total[point["actual"]] if total[point["actual"]] else 0.0
        colour = SERIES[0] if x == y else SERIES[1]
        box = mpl.patches.Rectangle(
            (x - 0.48, y - 0.48), 0.96, 0.96, color=colour, alpha=0.08 + 0.5 * share, linewidth=0
        )
        axes.add_patch(box)
        if not small:
            axes.text(x, y - 0.06, f"{share:.0%}", ha="center", va="center", fontsize=14, fontweight="bold")
            axes.text(x, y + 0.2, f"{point['rows']:,}", ha="center", va="center", fontsize=9, color=MUTED)
        elif len(names) <= 12:
            axes.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set(xlabel=f"predicted {setting.target}", ylabel=f"actual {setting.target}")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _scores(axes: Axes, points: Points, setting: Setting) -> None:
    groups = _by_class(points)
    for k, (name, curve) in enumerate(groups.items()):
        x, y = _column(curve, "score"), _column(curve, "share")
        axes.fill_between(x, y, color=_colour(k), alpha=0.15, linewidth=0, step="mid")
        axes.step(x, y, color=_colour(k), where="mid", label=name, linewidth=1.6)
    if setting.threshold is not None:
        axes.axvline(setting.threshold, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            f"threshold {setting.threshold:.3g}",
            (setting.threshold, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )
    what = "predicted probability" if setting.threshold is not None else "probability given to the right class"
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel=what, ylabel="share of the class's rows")
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    place = {"loc": "upper right"} if setting.threshold is not None else {"loc": "upper left"}
    _names(axes, f"actual {setting.target}", **place)


def _importance(axes: Axes, points: Points, setting: Setting) -> None:
    shown = points[:SHOWN][::-1]
    losses, positions = _column(shown, "loss"), range(len(shown))
    axes.barh(positions, losses, height=0.62, color=SERIES[0])
    ends = [max(point["high"], 0.0) for point in shown]
    axes.hlines(positions, _column(shown, "low"), _column(shown, "high"), color=INK, linewidth=1)
    room = max([*ends, 1e-12])
    for position, (point, end) in enumerate(zip(shown, ends, strict=True)):
        axes.text(end + 0.02 * room, position, number(point["loss"]), va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks(positions, _column(shown, "column"))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xticks([])
    axes.set(xlim=(min(0.0, *_column(shown, "low")) if shown else 0, room * 1.15))
    word = worded(setting.primary)
    axes.set_xlabel(f"{word.name}: how much worse when shuffled")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _residuals(axes: Axes, points: Points, setting: Setting) -> None:
    x, rows = _column(points, "residual"), _column(points, "rows")
    axes.bar(x, rows, width=(x[1] - x[0]) * 0.92 if len(x) > 1 else 1, color=SERIES[0])
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set(xlabel=f"actual minus predicted {setting.target}", ylabel="rows")
    axes.grid(visible=False, axis="x")


def _predicted_actual(axes: Axes, points: Points, setting: Setting) -> None:
    x, y = _column(points, "predicted"), _column(points, "actual")
    low, high = min(x + y), max(x + y)
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    axes.scatter(x, y, s=14, color=SERIES[0], alpha=0.45 if len(x) < 500 else 0.2, linewidths=0)
    axes.set(xlabel=f"predicted {setting.target}", ylabel=f"actual {setting.target}")


DRAWN: dict[str, tuple[str, Callable[[Axes, Points, Setting], None]]] = {
    "roc": ("ROC curve", _roc),
    "precision_recall": ("Precision and recall", _precision_recall),
    "calibration": ("Calibration", _calibration),
    "confusion": ("Confusion", _confusion),
    "scores": ("Scores by class", _scores),
    "residuals": ("Residuals", _residuals),
    "predicted_actual": ("Predicted and actual", _predicted_actual),
    "importance": ("Importance", _importance),
}
