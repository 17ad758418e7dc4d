"""The gate: may this model take the champion's place? `python -m stages.gate` exits 1 where the verdict says no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.errors import ModelError, run_stage
from stages.files import REPORTS, read_json
from stages.reporting.wording import worded
from stages.resampling import DEFINED, Interval

VERDICT = REPORTS / "gate.json"


@dataclass(frozen=True)
class Contest:
    """The primary metric of the models on the same test rows. A champion that cannot be compared has its `obstacle`.

    room: candidate - champion + margin x (champion - dummy), what is left of the loss that the margin allows.
    """

    primary: str
    candidate: Interval
    dummy: Interval
    over_dummy: Interval
    champion: Interval | None = None
    over_champion: Interval | None = None
    room: Interval | None = None
    obstacle: str | None = None


@dataclass(frozen=True)
class Verdict:
    passed: bool
    reasons: tuple[str, ...]
    contest: Contest

    def tree(self) -> dict[str, Any]:
        """As data/reports/gate.json holds it."""
        c = self.contest
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "primary": c.primary,
            "candidate": c.candidate.tree(),
            "dummy": c.dummy.tree(),
            "difference_to_dummy": c.over_dummy.tree(),
            "champion": c.champion.tree() if c.champion else None,
            "difference_to_champion": c.over_champion.tree() if c.over_champion else None,
            "room": c.room.tree() if c.room else None,
        }


def judge(contest: Contest, margin: float) -> Verdict:
    """Both must hold, on paired differences of the primary metric over the same resamples of the test split:

    1. better than the dummy: the lower confidence limit of candidate - dummy is above 0;
    2. not worse than the champion (non-inferiority): the lower confidence limit of
       room = candidate - champion + margin x max(champion - dummy, 0) is at least 0.

    The burden of proof is the candidate's. The other rule, "blocked only when shown to be worse" (upper limit below
    0), would wave anything through on a small test split. Without a margin the strict rule would block an equal
    model by noise; and a margin in the metric's own unit would have to be set anew for each metric. So it is the share
    of the champion's lead over the dummy that may be lost: 0.1 keeps, with confidence, 90 % of what the champion gives.

    The lead is uncertain as well, so it is taken from each resample together with the difference; as a point estimate
    it would let a lucky lead widen the margin. A champion that falls behind the dummy on a resample gives no room
    there: the rule is never stricter than without a margin.
    """
    reasons = [_against_dummy(contest)]
    if contest.obstacle is not None:
        reasons.append((False, contest.obstacle))
    elif contest.champion is not None and contest.over_champion is not None and contest.room is not None:
        reasons.append(_against_champion(contest, contest.champion, contest.over_champion, contest.room, margin))
    else:
        reasons.append((True, "No champion is set (evaluate.gate.champion), so the dummy alone was to beat."))
    return Verdict(all(good for good, _ in reasons), tuple(text for _, text in reasons), contest)


def _against_dummy(contest: Contest) -> tuple[bool, str]:
    word, difference = worded(contest.primary), contest.over_dummy
    if difference.value is None or difference.low is None:
        return False, _undefined(word.name, difference, "dummy")
    figures = f"{word.figure(contest.candidate.value)} against {word.figure(contest.dummy.value)}"
    if difference.low > 0:
        return True, f"It beats the dummy, which knows no features: {word.name} {figures}{_better_by(difference)}."
    if difference.high is not None and difference.high < 0:
        return False, f"It is worse than the dummy, which knows no features: {word.name} {figures}."
    return False, (
        f"It cannot be told from the dummy, which knows no features: {word.name} {figures}{_better_by(difference)}."
    )


def _against_champion(
    contest: Contest, champion: Interval, difference: Interval, room: Interval, margin: float
) -> tuple[bool, str]:
    word = worded(contest.primary)
    if room.value is None or room.low is None or room.high is None or difference.low is None:
        return False, _undefined(word.name, room, "champion")
    figures = f"{word.name} {word.figure(contest.candidate.value)} against {word.figure(champion.value)}"
    lost = f"{margin:.0%} of the champion's lead over the dummy may be lost"
    left = f"{_plain(room.value)} ({_plain(room.low)} to {_plain(room.high)}"
    rule = f"{lost}, which leaves {left}; the lower limit must not be below 0)"
    if difference.low > 0:
        return True, f"It beats the champion: {figures}{_better_by(difference)}."
    if room.low >= 0:
        return True, f"It is not worse than the champion: {figures}{_better_by(difference)}; {rule}."
    if room.high < 0:
        return False, f"It is worse than the champion: {figures}{_better_by(difference)}; {rule}."
    return False, (
        f"It may be worse than the champion, the test split cannot tell: {figures}{_better_by(difference)}; {rule}. "
        "More test rows, or a larger evaluate.gate.margin, would settle it."
    )


def _undefined(metric: str, difference: Interval, other: str) -> str:
    if difference.value is None:
        return f"The {metric} is not defined on the test split, so nothing can be said against the {other}."
    return (
        f"The {metric} is not defined on enough resamples of the test split ({DEFINED:.0%} are asked for), so nothing "
        f"can be said against the {other}. More test rows would settle it."
    )


def _better_by(difference: Interval) -> str:
    """`, better by 0.010 (0.002 to 0.018)`; less than nothing is worse."""
    value = difference.value or 0.0
    limits = f"{_plain(difference.low)} to {_plain(difference.high)}"
    return f", better by {_plain(value)} ({limits}; below 0 is worse)"


def _plain(value: float | None) -> str:
    return worded("").figure(value)


def main() -> None:
    """Say the verdict; exit 1 where it is no."""
    verdict = read_json(VERDICT)
    if not isinstance(verdict.get("passed"), bool) or not isinstance(verdict.get("reasons"), list):
        raise ModelError(f"{VERDICT}: not a verdict; run `dvc repro -f evaluate`")
    print("gate: passed" if verdict["passed"] else "gate: not passed")
    for reason in verdict["reasons"]:
        print(f"  {reason}")
    if not verdict["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    run_stage(main)
