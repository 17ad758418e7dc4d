"""The model card: one page of Markdown that travels with the bundle."""

from __future__ import annotations

from typing import Any

from stages.bundle import Signature
from stages.dataset import Split


def card(signature: Signature, origin: dict[str, Any], compiled: str, train: Split) -> str:
    """What the model predicts, from what, trained on what, by which code."""
    params = origin["params"]
    model = params["model"]
    settings = "\n".join(f"| {key} | {value} |" for key, value in model.items() if key != "_target_")
    span = f", {train.time.min()} to {train.time.max()} (UTC)" if train.time is not None else ""
    answer = (
        f"one of {', '.join(str(c) for c in signature.classes)}, with the probability of each"
        if signature.classes is not None
        else "a number"
    )
    cut = ""
    if signature.threshold is not None and signature.classes:
        above = f"above a probability of {signature.threshold:g}, chosen on validation"
        cut = f"\n`{signature.target}` is {signature.classes[1]} {above}."
    features = "\n".join(_feature(column) for column in signature.columns)
    return f"""# Model card: {params["data"]["name"]}

Predicts `{signature.target}`: {answer}.{cut}

- Trained on {len(train):,} rows{span}
- {model["_target_"]}; {compiled}
- Code {origin["code"]}, of the commit whose dvc.lock pins this bundle
- Data {", ".join(f"{path} {md5}" for path, md5 in origin["data"].items())}

| parameter | value |
|---|---|
{settings}

| feature | kind | seen in training | unit |
|---|---|---|---|
{features}

How good it is, on which rows, and how it calibrates: data/reports/report.html of the same `dvc.lock`.
"""


def _feature(column: Any) -> str:
    if column.kind == "numeric":
        seen = f"{column.min:g} to {column.max:g}"
    else:
        shown = ", ".join(column.categories[:8])
        seen = f"{len(column.categories)}: {shown}{' …' if len(column.categories) > 8 else ''}"
    return f"| {column.name} | {column.kind} | {seen} | {column.unit or ''} |"
