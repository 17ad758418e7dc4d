"""Tensors of the Open Inference Protocol, as JSON or as bytes behind it, to numpy and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np

from serve.protocols import BadInputError
from serve.protocols.rows import shown
from stages.bundle import Array

KINDS = {
    "BOOL": "u1",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
MOST = 2**40  # values of a shape
_ALLOWED: dict[str, set[type]] = {"BYTES": {str, NoneType}, "BOOL": {bool}}


def tensor(given: Mapping[str, Any], binary: bytes | None) -> Array:
    """A tensor [n] or [n, k]: numbers in the datatype that is given, texts as str objects.

    given: {"shape", "datatype", "data"}; binary: its bytes where they stand behind the JSON. Raises BadInputError where
    shape, datatype and data do not fit each other.
    """
    kind, shape = given.get("datatype"), given.get("shape")
    if kind != "BYTES" and (not isinstance(kind, str) or kind not in KINDS):
        raise _wrong(given, f"has the datatype {shown(kind)}; expected BYTES, {', '.join(KINDS)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= MOST for size in shape):
        raise _wrong(given, f"has the shape {shown(shape)}; expected a list of sizes")
    if len(shape) not in (1, 2):
        raise _wrong(given, f"has {len(shape)} dimensions; expected [rows], [rows, 1] or [rows, features]")
    flat = _from_json(given, kind) if binary is None else _from_bytes(given, kind, binary)
    if len(flat) != math.prod(shape):
        raise _wrong(given, f"has {len(flat)} values; its shape {shown(shape)} calls for {math.prod(shape)}")
    return flat.reshape(shape)


def to_bytes(values: Sequence[Any], kind: str) -> bytes:
    """Values in the binary form of a datatype."""
    if kind != "BYTES":
        return np.array(values, dtype=KINDS[kind]).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _from_json(given: Mapping[str, Any], kind: str) -> Array:
    flat = given.get("data")
    if not isinstance(flat, list):
        raise _wrong(given, f"has the data {shown(flat)}; expected a list")
    while flat and all(isinstance(value, list) for value in flat):
        flat = list(chain.from_iterable(flat))
    allowed = _ALLOWED.get(kind, {int, float, NoneType} if kind.startswith("FP") else {int})
    if not set(map(type, flat)) <= allowed:
        value = next(value for value in flat if type(value) not in allowed)
        raise _wrong(given, f"holds {shown(value)}, which is no {kind}")
    if kind == "BYTES":
        return np.array(flat, dtype="object")
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=KINDS[kind])
    except OverflowError:
        raise _wrong(given, f"holds a number beyond {kind}") from None


def _from_bytes(given: Mapping[str, Any], kind: str, binary: bytes) -> Array:
    if kind == "BYTES":
        return np.array(_texts(given, binary), dtype="object")
    width = np.dtype(KINDS[kind]).itemsize
    if len(binary) % width:
        raise _wrong(given, f"has {len(binary)} bytes; a value of {kind} has {width}")
    flat = np.frombuffer(binary, dtype=KINDS[kind])
    if kind == "BOOL" and (flat > 1).any():
        raise _wrong(given, f"holds the byte {flat.max()}, which is no BOOL")
    return flat


def _texts(given: Mapping[str, Any], binary: bytes) -> list[str]:
    """Texts in UTF-8, each behind its length in four bytes."""
    texts: list[str] = []
    place = 0
    while place < len(binary):
        end = place + 4 + int.from_bytes(binary[place : place + 4], "little")
        if end > len(binary) or place + 4 > len(binary):
            raise _wrong(given, f"ends in the middle of its value {len(texts)}")
        try:
            texts.append(binary[place + 4 : end].decode())
        except UnicodeDecodeError:
            raise _wrong(given, f"holds a value {len(texts)} that is not UTF-8") from None
        place = end
    return texts


def _wrong(given: Mapping[str, Any], said: str) -> BadInputError:
    return BadInputError(f"the tensor {shown(given.get('name'))} {said}", status=400)
