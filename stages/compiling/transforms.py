"""The feature half of a pipeline, a fitted ColumnTransformer, as ONNX nodes in double precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.compiling.graph import Graph, UnsupportedError


@dataclass(frozen=True)
class Block:
    """Features side by side.

    Doubles: one tensor [n, len(origins)]. Text: one tensor [n, 1] for each feature. An origin names
    the numeric column whose values reach the feature unchanged (but for filled-in missing ones), or
    is None.
    """

    tensors: tuple[str, ...]
    origins: tuple[str | None, ...]
    text: bool = False


def kind(thing: object) -> str:
    """Return "package.Class" of exactly this class: a subclass may compute something else."""
    return f"{type(thing).__module__.split('.')[0]}.{type(thing).__name__}"


def column_block(graph: Graph, transformer: Any) -> Block:
    """Add a fitted ColumnTransformer.

    :raises UnsupportedError: where a part of it has no exact counterpart.
    """
    if kind(transformer) != "sklearn.ColumnTransformer":
        raise UnsupportedError(f"The features step is a {type(transformer).__name__}, not a ColumnTransformer.")
    weights = transformer.transformer_weights or {}
    if weights:
        raise UnsupportedError("A ColumnTransformer with transformer_weights is not compiled.")
    blocks = []
    for name, part, columns in transformer.transformers_:
        chosen = _columns(columns, list(transformer.feature_names_in_), name)
        if chosen and not (isinstance(part, str) and part == "drop"):
            blocks += [transformed(graph, part, block) for block in _inputs(graph, chosen, name)]
    blocks = [block for block in blocks if block.origins]
    if not blocks:
        raise UnsupportedError("The features step passes no feature on to the model.")
    if any(block.text for block in blocks):
        raise UnsupportedError("A text column reaches the model without being encoded.")
    tensor = graph.join([block.tensors[0] for block in blocks])
    return Block((tensor,), tuple(origin for block in blocks for origin in block.origins))


def _columns(columns: Any, names: list[str], part: str) -> list[str]:
    if isinstance(columns, str):
        return [columns]
    values = np.asarray(columns) if not isinstance(columns, slice) else None
    if values is not None and values.ndim == 1:
        if values.dtype == bool:
            return [name for name, use in zip(names, values, strict=True) if use]
        if np.issubdtype(values.dtype, np.integer):
            return [names[index] for index in values]
        return [str(value) for value in values]
    raise UnsupportedError(f"The columns of '{part}' are not a list of names.")


def _inputs(graph: Graph, columns: list[str], part: str) -> list[Block]:
    text = {graph.columns.get(column) for column in columns}
    if text == {True}:
        return [Block(tuple(graph.text(column) for column in columns), (None,) * len(columns), text=True)]
    if text == {False}:
        return [Block((graph.numbers(columns),), tuple(columns))]
    raise UnsupportedError(f"The columns of '{part}' mix numbers and text, or are not in the data.")


def transformed(graph: Graph, transformer: Any, block: Block) -> Block:
    """Add one fitted transformer behind `block`.

    :raises UnsupportedError: where it has no exact counterpart.
    """
    if transformer is None or (isinstance(transformer, str) and transformer == "passthrough"):
        return block
    if kind(transformer) == "sklearn.FunctionTransformer" and transformer.func is None:
        return block  # what a fitted ColumnTransformer keeps for "passthrough"
    if kind(transformer) == "sklearn.Pipeline":
        for _, step in transformer.steps:
            block = transformed(graph, step, block)
        return block
    handlers = _TEXT if block.text else _NUMERIC
    handler = handlers.get(kind(transformer))
    if handler is None:
        what = "text columns" if block.text else "numeric columns"
        raise UnsupportedError(f"{type(transformer).__name__} on {what} is not compiled.")
    return handler(graph, transformer, block)


def _imputer(graph: Graph, imputer: Any, block: Block) -> Block:
    if not _is_nan(imputer.missing_values):
        raise UnsupportedError("SimpleImputer on numbers is compiled for missing_values=nan only.")
    fill = np.asarray(imputer.statistics_, dtype=np.float64)
    (tensor,) = block.tensors
    kept = np.flatnonzero(~np.isnan(fill))
    filled, origins = tensor, block.origins
    if len(kept) < len(fill):  # a column without one value to learn from is left out
        filled = graph.add("Gather", tensor, graph.constant(kept, np.int64), axis=1)
        origins = tuple(block.origins[index] for index in kept)
    missing = graph.add("IsNaN", filled)
    parts = [graph.add("Where", missing, graph.constant(fill[kept]), filled)] if len(kept) else []
    if imputer.add_indicator:
        flagged = imputer.indicator_.features_
        if len(flagged):
            chosen = graph.add("Gather", tensor, graph.constant(flagged, np.int64), axis=1)
            parts.append(graph.cast(graph.add("IsNaN", chosen), np.float64))
            origins += (None,) * len(flagged)
    return Block((graph.join(parts),) if parts else (), origins)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and bool(np.isnan(value))


def _text_imputer(graph: Graph, imputer: Any, block: Block) -> Block:
    if not isinstance(imputer.missing_values, str) or imputer.add_indicator:
        raise UnsupportedError("SimpleImputer on text is compiled for a text as missing_values, and no indicator.")
    wanted = graph.constant([imputer.missing_values], np.str_)
    tensors = tuple(
        graph.add("Where", graph.add("Equal", tensor, wanted), graph.constant([fill], np.str_), tensor)
        for tensor, fill in zip(block.tensors, imputer.statistics_, strict=True)
    )
    return Block(tensors, block.origins, text=True)


def _shifted(*steps: tuple[str, str, str]) -> Callable[[Graph, Any, Block], Block]:
    """Make a handler that applies (operator, attribute, switch) in turn where the switch is on."""

    def handler(graph: Graph, scaler: Any, block: Block) -> Block:
        if getattr(scaler, "clip", False):
            raise UnsupportedError(f"{type(scaler).__name__} with clip=True is not compiled.")
        (tensor,) = block.tensors
        for operator, attribute, switch in steps:
            if not switch or getattr(scaler, switch):
                tensor = graph.add(operator, tensor, graph.constant(getattr(scaler, attribute)))
        return Block((tensor,), (None,) * len(block.origins))

    return handler


def _one_hot(graph: Graph, encoder: Any, block: Block) -> Block:
    if encoder.handle_unknown == "error":
        raise UnsupportedError("OneHotEncoder raises on an unseen category; set handle_unknown: ignore to compile it.")
    rare_groups = getattr(encoder, "infrequent_categories_", [None] * len(block.tensors))
    dropped = encoder.drop_idx_ if encoder.drop_idx_ is not None else [None] * len(block.tensors)
    parts = []
    width = 0
    for tensor, categories, rare, drop in zip(block.tensors, encoder.categories_, rare_groups, dropped, strict=True):
        places, other, count = _one_hot_places(_texts(categories), rare, drop)
        default = -1 if encoder.handle_unknown == "ignore" else other
        if count:
            code = graph.lookup(tensor, list(places), np.array([*places.values()]), default)
            hot = graph.add("Equal", code, graph.constant(np.arange(count)[None, :], np.int64))
            parts.append(graph.cast(hot, np.float64))
        width += count
    return Block((graph.join(parts),) if parts else (), (None,) * width)


def _one_hot_places(categories: list[str], rare: Any, drop: int | None) -> tuple[dict[str, int], int, int]:
    """Return each category's place (-1: none), that of infrequent ones, and how many there are."""
    pooled = set(rare) if rare is not None else set()
    frequent = [category for category in categories if category not in pooled]
    places = {category: place for place, category in enumerate(frequent)}
    other = len(frequent) if pooled else -1
    places |= dict.fromkeys((c for c in categories if c in pooled), other)
    count = len(frequent) + bool(pooled)
    if drop is not None:
        gone = places[categories[drop]]
        places = {c: -1 if p == gone else p - (p > gone) for c, p in places.items()}
        other = -1 if other == gone else other - (other > gone)
        count -= 1
    return places, other, count


def _codes(graph: Graph, encoder: Any, block: Block) -> Block:
    """Add an encoder that gives each category one number, by asking it for each."""
    if getattr(encoder, "handle_unknown", "") == "error":
        raise UnsupportedError(
            "OrdinalEncoder raises on an unseen category; set handle_unknown: use_encoded_value "
            "and unknown_value: -1 to compile it."
        )
    known = [_texts(categories) for categories in encoder.categories_]
    unseen = "?" + max((text for texts in known for text in texts), key=len, default="")
    rows = max(map(len, known)) + 1
    probe = np.full((rows, len(known)), unseen, dtype=object)
    for place, texts in enumerate(known):
        probe[: len(texts), place] = texts
    with warnings.catch_warnings():  # the probe has no column names
        warnings.simplefilter("ignore")
        codes = np.asarray(encoder.transform(probe), dtype=np.float64)
    if codes.shape != probe.shape:
        raise UnsupportedError(f"{type(encoder).__name__} gives more than one number a category.")
    parts = [
        graph.lookup(tensor, texts, codes[: len(texts), place], codes[-1, place])
        for place, (tensor, texts) in enumerate(zip(block.tensors, known, strict=True))
    ]
    return Block((graph.join(parts),), (None,) * len(parts))


def _texts(categories: Sequence[Any]) -> list[str]:
    if not all(isinstance(category, str) for category in categories):
        raise UnsupportedError("A categorical column has categories that are not text.")
    return [str(category) for category in categories]


_NUMERIC: dict[str, Callable[[Graph, Any, Block], Block]] = {
    "sklearn.SimpleImputer": _imputer,
    "sklearn.StandardScaler": _shifted(("Sub", "mean_", "with_mean"), ("Div", "scale_", "with_std")),
    "sklearn.RobustScaler": _shifted(("Sub", "center_", "with_centering"), ("Div", "scale_", "with_scaling")),
    "sklearn.MinMaxScaler": _shifted(("Mul", "scale_", ""), ("Add", "min_", "")),
    "sklearn.MaxAbsScaler": _shifted(("Div", "scale_", "")),
}
_TEXT: dict[str, Callable[[Graph, Any, Block], Block]] = {
    "sklearn.SimpleImputer": _text_imputer,
    "sklearn.OneHotEncoder": _one_hot,
    "sklearn.OrdinalEncoder": _codes,
    "sklearn.TargetEncoder": _codes,
}
