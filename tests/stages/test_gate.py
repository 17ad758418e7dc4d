from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stages import gate
from stages.errors import ModelError
from stages.gate import Contest, judge
from stages.resampling import Interval

BASE = Contest(
    "roc_auc",
    candidate=Interval(0.7, 0.68, 0.72),
    dummy=Interval(0.5, 0.5, 0.5),
    over_dummy=Interval(0.2, 0.18, 0.22),
)


def against(low: float, value: float, high: float, allowed: float = 0.0) -> Contest:
    """A champion with the candidate's lead over it, and a margin that is the same on every resample."""
    return replace(
        BASE,
        champion=Interval(0.7 - value, 0.6, 0.8),
        over_champion=Interval(value, low, high),
        room=Interval(value + allowed, low + allowed, high + allowed),
    )


def test_without_a_champion_the_dummy_alone_is_to_beat() -> None:
    verdict = judge(BASE, 0.1)
    assert verdict.passed
    assert verdict.tree()["champion"] is None
    assert "No champion is set" in verdict.reasons[1]


def test_what_may_be_no_better_than_the_dummy_is_held_back() -> None:
    verdict = judge(replace(BASE, over_dummy=Interval(0.01, -0.01, 0.03)), 0.1)
    assert not verdict.passed
    assert "cannot be told from the dummy" in verdict.reasons[0]


def test_the_dummy_itself_is_held_back() -> None:
    assert not judge(replace(BASE, over_dummy=Interval(0.0, 0.0, 0.0)), 0.1).passed


def test_what_is_worse_than_the_dummy_is_said_to_be() -> None:
    assert "worse than the dummy" in judge(replace(BASE, over_dummy=Interval(-0.1, -0.2, -0.05)), 0.1).reasons[0]


def test_the_champion_itself_passes_against_itself() -> None:
    assert judge(against(0.0, 0.0, 0.0), 0.0).passed


def test_a_loss_within_the_margin_of_the_champions_lead_passes() -> None:
    assert judge(against(-0.019, -0.005, 0.01, allowed=0.0205), 0.1).passed  # a tenth of the champion's lead of .205
    assert not judge(against(-0.022, -0.005, 0.01, allowed=0.0205), 0.1).passed


def test_the_room_that_is_left_decides_and_is_told() -> None:
    contest = replace(against(-0.019, -0.005, 0.01), room=Interval(0.0155, -0.001, 0.03))
    verdict = judge(contest, 0.1)
    assert not verdict.passed
    said = "10% of the champion's lead over the dummy may be lost, which leaves 0.015 (\N{MINUS SIGN}0.001 to 0.030;"
    assert said in verdict.reasons[1]
    assert verdict.tree()["room"] == {"value": 0.0155, "low": -0.001, "high": 0.03}


def test_what_is_shown_to_be_worse_reads_otherwise_than_what_may_be() -> None:
    assert "It is worse than the champion" in judge(against(-0.10, -0.06, -0.04), 0.1).reasons[1]
    assert "the test split cannot tell" in judge(against(-0.10, -0.01, 0.04), 0.1).reasons[1]


def test_a_champion_that_does_not_fit_is_a_reason_and_no_crash() -> None:
    verdict = judge(replace(BASE, obstacle="The champion cannot be compared: it needs age."), 0.1)
    assert not verdict.passed
    assert verdict.reasons[1] == "The champion cannot be compared: it needs age."


def test_an_undefined_metric_is_held_back() -> None:
    nothing = Interval(None, None, None)
    assert not judge(replace(BASE, candidate=nothing, over_dummy=nothing), 0.1).passed
    verdict = judge(replace(BASE, champion=nothing, over_champion=nothing, room=nothing), 0.1)
    assert not verdict.passed
    assert "not defined on the test split" in verdict.reasons[1]


def test_a_metric_that_few_resamples_define_is_held_back_and_said_to_be() -> None:
    lonely = Interval(0.2, None, None)
    verdict = judge(replace(BASE, over_dummy=lonely), 0.1)
    assert not verdict.passed
    assert "not defined on enough resamples of the test split (95% are asked for)" in verdict.reasons[0]
    verdict = judge(replace(against(0.0, 0.0, 0.0), over_champion=lonely, room=lonely), 0.1)
    assert not verdict.passed
    assert "enough resamples" in verdict.reasons[1]
    assert "against the champion" in verdict.reasons[1]


def test_losses_read_as_people_say_them() -> None:
    contest = Contest(
        "neg_log_loss", Interval(-0.4, -0.41, -0.39), Interval(-0.52, -0.53, -0.51), Interval(0.12, 0.1, 0.14)
    )
    assert "log loss 0.400 against 0.520, better by 0.120 (0.100 to 0.140" in judge(contest, 0.1).reasons[0]


def test_the_command_exits_1_when_the_verdict_is_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gate.VERDICT.parent.mkdir(parents=True)
    gate.VERDICT.write_text(json.dumps(judge(BASE, 0.1).tree()))
    gate.main()
    assert "gate: passed" in capsys.readouterr().out
    gate.VERDICT.write_text(json.dumps(judge(against(-0.1, -0.06, -0.04), 0.1).tree()))
    with pytest.raises(SystemExit) as ended:
        gate.main()
    assert ended.value.code == 1
    assert "worse than the champion" in capsys.readouterr().out


def test_a_file_that_is_no_verdict_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gate.VERDICT.parent.mkdir(parents=True)
    gate.VERDICT.write_text("{}")
    with pytest.raises(ModelError, match=r"gate\.json: not a verdict"):
        gate.main()
