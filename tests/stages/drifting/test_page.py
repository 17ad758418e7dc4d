from __future__ import annotations

import re
from html.parser import HTMLParser

from stages.drifting.columns import Bar, Finding
from stages.drifting.model import Change
from stages.drifting.page import render
from stages.drifting.verdict import DriftVerdict, Evidence


def finding(name: str, distance: float, reason: str) -> Finding:
    bars = (Bar("1 to 2", 0.25, 0.75), Bar("2 to 3", 0.75, 0.25))
    return Finding(name, "numeric", 0.0, 0.0, distance, 0.0, 0.1, (), bool(reason), reason, bars)


EVIDENCE = Evidence(
    reference="train, validation and test",
    current="current",
    rows_reference=12345,
    rows_current=678,
    columns=(finding("still", 0.01, ""), finding("<b>odd</b>", 0.4, "new categories: '<script>alert(1)</script>'")),
    classifier=0.91,
    performance=Change("roc_auc", 0.7, 0.6, -0.1, -0.2, -0.05),
    errors=(0.01, 0.02),
)
PAGE = render("flights", EVIDENCE, DriftVerdict(True, ("temperature rose",), ("a note",)), ignored=("month",))


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [name for name, _ in attrs if name in ("src", "href")]


def test_the_page_needs_no_script_and_no_network() -> None:
    outline = Outline()
    outline.feed(PAGE)
    assert "script" not in outline.tags
    assert outline.links == []
    assert outline.tags.count("svg") == 2


def test_names_and_categories_are_escaped() -> None:
    assert "<b>odd" not in PAGE
    assert "&lt;b&gt;odd" in PAGE


def test_verdict_and_reasons_come_before_the_table() -> None:
    assert PAGE.index("have drifted") < PAGE.index("temperature rose") < PAGE.index("<svg")


def test_columns_are_sorted_by_distance() -> None:
    names = re.findall(r'<td><span class="name">(.*?)</span>', PAGE)
    assert names == ["&lt;b&gt;odd&lt;/b&gt;", "still"]


def test_rows_notes_and_what_was_left_out_are_told() -> None:
    for said in ("12,345", "678", "a note", "month", "0.910", "roc_auc"):
        assert said in PAGE


def test_no_drift_is_said_plainly() -> None:
    assert "No drift that matters" in render("flights", EVIDENCE, DriftVerdict(False, (), ()))
