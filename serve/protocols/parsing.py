"""JSON as clients send it, refused where it does not say one thing only."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from serve.protocols import BadInputError
from serve.protocols.rows import shown

_decode = msgspec.json.Decoder().decode


def decoded_json(body: bytes, nan: bool = False) -> Any:
    """The JSON of a body. nan: take NaN and Infinity too, which Python's clients write.

    Raises BadInputError (400) saying what is wrong: a syntax error, a name that is given twice, text that is not UTF-8
    or half a surrogate pair, nesting without end.
    """
    try:
        value = _decode(body)
        names = _names(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not (nan and (b"NaN" in body or b"Infinity" in body)):
            raise BadInputError(f"the body is not JSON: {error}", status=400) from None
        return _parsed(body)
    except RecursionError:
        raise _too_deep() from None
    # Each name has a colon, so that as many colons as names tell that none is given twice; a text may hold more of them
    if body.count(b":") != names:
        _parsed(body)
    return value


def _names(value: Any) -> int:
    """How many names there are; in a list that begins with neither list nor object none are counted."""
    if isinstance(value, dict):
        return len(value) + sum(map(_names, value.values()))
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return sum(map(_names, value))
    return 0


def _parsed(body: bytes) -> Any:
    """The same by Python's parser, which is slower and sees names that are given twice."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_once)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInputError("the body is not JSON: half a surrogate pair", status=400) from None
    except ValueError as error:  # also not UTF-8, and integers of thousands of digits
        raise BadInputError(f"the body is not JSON: {_brief(error)}", status=400) from None
    except RecursionError:
        raise _too_deep() from None
    return value


def _brief(error: ValueError) -> str:
    """json's own message, without the digits or bytes that it was about."""
    return error.msg if isinstance(error, json.JSONDecodeError) else error.__class__.__name__


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BadInputError(f"the name {shown(name)} is given twice", status=400)
            seen.add(name)
    return made


def _too_deep() -> BadInputError:
    return BadInputError("the body is nested too deeply", status=400)
