"""The verdict as one page of HTML: no script, no network, pictures as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from jinja2 import Environment
from markupsafe import Markup

from stages.drifting.columns import OTHERS, Bar, Finding
from stages.drifting.verdict import DriftVerdict, Evidence, Outcome

WIDTH, HEIGHT = 168, 44
HEADINGS: dict[Outcome, str] = {
    "broken inputs": "Inputs are broken: mend them before anything is trained on them",
    "drift": "The data or the model have drifted",
    "stable": "No drift that matters",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drift: {{ title }}</title>
<style>
:root { --ink: #1c2530; --soft: #5c6b7a; --line: #dfe5eb; --old: #9fb0c0; --new: #d9622b; --ground: #fff;
  --bad: #a8380c; --good: #1f6f4a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5eaf0; --soft: #9aa8b6; --line: #303a45; --old: #66788a;
  --new: #ff8a4f; --ground: #14191f; --bad: #ff9a6b; --good: #6fcf9f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p, li { max-width: 46rem; }
.quiet { color: var(--soft); }
.yes { color: var(--bad); } .no { color: var(--good); }
ul { padding-left: 1.2rem; margin: .6rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .55rem .8rem .55rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.said { min-width: 15rem; }
.name { font-weight: 600; }
svg { display: block; }
.old { fill: var(--old); } .new { fill: none; stroke: var(--new); stroke-width: 1.6; stroke-linejoin: round; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .9em; }
.key.a { background: var(--old); } .key.b { border: 2px solid var(--new); }
</style>
</head>
<body>
<h1 class="{{ 'no' if verdict.outcome == 'stable' else 'yes' }}">{{ heading }}</h1>
<p class="quiet">{{ title }}. Current window: {{ evidence.current }}, {{ '{:,}'.format(evidence.rows_current) }} rows.
Reference: {{ evidence.reference }}, {{ '{:,}'.format(evidence.rows_reference) }} rows.</p>
{% if verdict.reasons %}<ul>{% for reason in verdict.reasons %}<li>{{ reason }}</li>{% endfor %}</ul>{% endif %}
{% if drifted %}
<h2>Columns that drifted</h2>
<ul>{% for column in drifted %}
<li><span class="name">{{ column.name }}</span>: {{ column.reason }}</li>{% endfor %}</ul>
{% endif %}
{% if notes %}<h2>Also worth knowing</h2><ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
{% if figures %}
<h2>The windows and the model</h2>
<div class="wide"><table><thead><tr><th>Figure</th><th class="number">Reference</th><th class="number">Current</th>
<th class="number">Change</th><th class="number">Interval of the change</th></tr></thead><tbody>
{% for row in figures %}<tr><td class="name">{{ row[0] }}</td>
{% for cell in row[1:] %}<td class="number">{{ cell }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endif %}
<h2>Every column, the most changed first</h2>
<p class="quiet"><span class="key a" style="margin-left:0"></span>reference<span class="key b"></span>current. Numeric
columns: equal bins from left to right; categories: the largest first. The distance is Kolmogorov-Smirnov's for numbers
and Jensen-Shannon's for categories.</p>
<div class="wide"><table><thead><tr><th>Column</th><th>Picture</th><th class="number">Distance</th>
<th class="number">p corrected</th><th class="number">Missing</th><th>What changed</th></tr></thead><tbody>
{% for column in columns %}<tr>
<td><span class="name">{{ column.name }}</span><br><span class="{{ 'yes' if column.drifted else 'quiet' }}">
{{- 'drifted' if column.drifted else column.kind }}</span></td>
<td>{{ picture(column) }}</td>
<td class="number">{{ '%.3f' % column.distance }}</td>
<td class="number">{{ probability(column.p_corrected) }}</td>
<td class="number">{{ '{:.1%}'.format(column.missing_reference) }} → {{ '{:.1%}'.format(column.missing_current) }}</td>
<td class="said">{{ column.reason }}</td>
</tr>{% endfor %}
</tbody></table></div>
{% if ignored %}<p class="quiet">Left out by drift.ignore: {{ ignored | join(', ') }}.</p>{% endif %}
</body>
</html>
"""


def render(title: str, evidence: Evidence, verdict: DriftVerdict, ignored: Sequence[str] = ()) -> str:
    """The whole page; nothing in it depends on the time or the machine."""
    # what comes out of the environment is escaped: names of columns and categories are data
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    about_columns = {f"{column.name}: {column.reason}" for column in evidence.columns}
    return environment.from_string(_PAGE).render(
        title=title,
        evidence=evidence,
        verdict=verdict,
        heading=HEADINGS[verdict.outcome],
        drifted=[column for column in evidence.columns if column.drifted],
        notes=[note for note in verdict.notes if note not in about_columns],
        columns=sorted(evidence.columns, key=lambda column: (-column.distance, column.name)),
        figures=_figures(evidence),
        ignored=list(ignored),
        picture=_picture,
        probability=_probability,
    )


def _figures(evidence: Evidence) -> list[tuple[str, str, str, str, str]]:
    rows: list[tuple[str, str, str, str, str]] = []
    changes = [(f"Predicted minus observed, {gap.name}", gap) for gap in evidence.calibration]
    if evidence.performance is not None:
        changes.append((f"Performance, {evidence.performance.name}", evidence.performance))
    for name, change in changes:
        interval = f"{change.low:+.4g} to {change.high:+.4g}" if isfinite(change.low) else "not known"
        rows.append((name, f"{change.reference:.4g}", f"{change.current:.4g}", f"{change.change:+.4g}", interval))
    before, after = evidence.errors
    if before is not None and after is not None:
        rows.append(("Expected calibration error", f"{before:.4g}", f"{after:.4g}", f"{after - before:+.4g}", ""))
    rows += [(f"Scores, {shift.name}: distance", "", f"{shift.distance:.3f}", "", "") for shift in evidence.scores]
    if evidence.classifier is not None:
        rows.append(("Classifier that tells the windows apart: area", "", f"{evidence.classifier:.3f}", "", ""))
    return rows


def _picture(column: Finding) -> Markup | str:
    bars = [bar for bar in column.bars if bar.label != OTHERS] or column.bars  # the sum of many would dwarf the rest
    return Markup(_histogram(bars)) if bars else ""  # figures only, no text of the data


def _histogram(bars: Sequence[Bar]) -> str:
    """Reference as filled bars, current as a line of steps over them, to one scale."""
    top = max(max(bar.reference, bar.current) for bar in bars) or 1.0
    step = WIDTH / len(bars)
    filled, line = [], [f"M0 {HEIGHT}"]
    for place, bar in enumerate(bars):
        high = HEIGHT - 2
        old, new = high * bar.reference / top, high * bar.current / top
        x = place * step
        filled.append(
            f'<rect class="old" x="{x + 0.5:.1f}" y="{HEIGHT - old:.1f}" width="{step - 1:.1f}" height="{old:.1f}"/>'
        )
        line.append(f"L{x:.1f} {HEIGHT - new:.1f}L{x + step:.1f} {HEIGHT - new:.1f}")
    path = f'<path class="new" d="{"".join(line)}L{WIDTH} {HEIGHT}"/>'
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="shares by value, reference and current">{"".join(filled)}{path}</svg>'
    )


def _probability(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
