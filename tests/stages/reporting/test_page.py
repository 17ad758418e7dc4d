from __future__ import annotations

import re
from dataclasses import replace

from stages.bundle import Signature, SignatureColumn
from stages.gate import Contest, judge
from stages.reporting.page import Findings, MetricRow, page, slice_span
from stages.reporting.slices import Slice
from stages.resampling import Interval

TEST = Interval(-0.4, -0.42, -0.38)
FINDINGS = Findings(
    title="Will <it> be late",
    signature=Signature("binary", "late", (0, 1), 0.3, (SignatureColumn("distance", "numeric", False),)),
    provenance={},
    md5="ab.dir",
    profile=None,
    metrics=(MetricRow("neg_log_loss", TEST, None, -0.5, None),),
    primary="neg_log_loss",
    confidence=0.95,
    units="days",
    rows_test=12345,
    rows_validation=0,
    verdict=judge(Contest("neg_log_loss", TEST, Interval(-0.5, -0.5, -0.5), Interval(0.1, 0.08, 0.12)), 0.1),
    slices=(),
    points={},
)


def test_the_verdict_comes_first_and_in_words() -> None:
    html = page(FINDINGS, {})
    assert "The gate lets this model pass." in html
    assert html.index("The gate lets") < html.index("12,345 rows") < html.index("<h2>Metrics</h2>")
    no = judge(replace(FINDINGS.verdict.contest, over_dummy=Interval(0.0, -0.1, 0.1)), 0.1)
    assert "The gate holds this model back." in page(replace(FINDINGS, verdict=no), {})


def test_a_loss_reads_without_its_minus_and_less_is_better() -> None:
    html = re.sub(r"\s+", " ", page(FINDINGS, {}))
    assert "<b>0.400</b> log loss on 12,345 rows" in html
    assert "0.380 to 0.420" in html
    assert "gets 0.500; less is better" in html


def test_the_page_needs_no_network_and_no_script() -> None:
    html = page(FINDINGS, {})
    assert "http" not in html
    assert "<script" not in html
    assert "Will &lt;it&gt; be late" in html


def test_slices_show_a_dash_where_a_metric_is_undefined() -> None:
    parts = (
        Slice("origin", "JFK", 500, Interval(-0.3, -0.35, -0.25), {"neg_log_loss": -0.3}),
        Slice("origin", "LGA", 400, Interval(None, None, None), {"neg_log_loss": None}),
    )
    html = page(replace(FINDINGS, slices=parts), {})
    assert "JFK" in html
    assert re.search(r"LGA</td><td>400</td><td><strong>\N{EN DASH}", html)
    assert slice_span(replace(FINDINGS, slices=parts)) == (-0.42, -0.25)


def test_the_windows_of_the_data_are_shown_where_there_is_a_profile() -> None:
    splits = {"train": {"rows": 5000, "from": "2013-01-01", "to": "2013-05-31"}, "test": {"rows": 7}}
    html = page(replace(FINDINGS, profile={"splits": splits, "unlabelled": 9430, "quarantined": 2}), {})
    assert "2013-05-31" in html
    assert "9,430 rows had no label and 2 broke the contract" in html


def test_the_metrics_file_keeps_scikit_learns_names_and_signs() -> None:
    tree = FINDINGS.tree()
    assert tree["test"] == {"neg_log_loss": -0.4}
    assert tree["test_low"] == {"neg_log_loss": -0.42}
    assert (tree["gate_passed"], tree["threshold"], tree["rows_test"]) == (1, 0.3, 12345)
