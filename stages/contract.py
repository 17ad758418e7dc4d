"""The contract of the columns as SQL: the types rows are brought to, and why a row breaks it."""

from __future__ import annotations

from collections.abc import Mapping

from stages.config import Column, Data
from stages.tables import identifier, is_number, literal

FLOATS = ("DOUBLE", "FLOAT")
WHOLE = "WHOLE DOUBLE"  # a float that holds nothing but whole numbers and NaN: classes 0 and 1 with some missing
ZONED = "TIMESTAMP WITH TIME ZONE"
RAW = "pinwerk_raw_"  # before the name of a column of text: what it said where it is no number or moment


def typed(data: Data, name: str, sql_type: str) -> str:
    """The column brought to its role's type: numeric DOUBLE, categorical VARCHAR, a boolean target 0 or 1, a moment
    naive UTC. NaN and empty text are missing; text that is no number or no moment becomes missing too, see `breach`."""
    column = identifier(name)
    if name in data.columns.numeric:
        return f"{_number(column, sql_type)} as {column}"
    if name == data.columns.time:
        moment = f"timezone('UTC', try_cast({column} as timestamptz))"  # text may hold an offset
        return f"{moment if sql_type in (ZONED, 'VARCHAR') else f'cast({column} as timestamp)'} as {column}"
    if name == data.columns.target:
        return f"{_target(data, column, sql_type)} as {column}"
    if name in data.columns.categorical:
        return f"{_text(column, sql_type)} as {column}"
    return f"timezone('UTC', {column}) as {column}" if sql_type == ZONED else column


def _number(column: str, sql_type: str) -> str:
    if sql_type == "VARCHAR":
        return f"nullif(try_cast({column} as double), 'nan')"
    return f"nullif(cast({column} as double), 'nan')" if sql_type in FLOATS else f"cast({column} as double)"


def _text(column: str, sql_type: str) -> str:
    return f"nullif(cast({column} as varchar), '{'nan' if sql_type in FLOATS else ''}')"


def _target(data: Data, column: str, sql_type: str) -> str:
    if data.task.name == "regression":
        return _number(column, sql_type)
    if sql_type == WHOLE:
        return f"try_cast({column} as bigint)"  # NaN is null
    whole = sql_type == "BOOLEAN" or sql_type.endswith(("INT", "INTEGER"))
    return f"cast({column} as bigint)" if whole else _text(column, sql_type)


def in_text(data: Data, found: Mapping[str, str]) -> list[str]:
    """Columns of text that are to be numbers or moments."""
    return [name for name in (*_numbers(data), *_moments(data)) if found[name] == "VARCHAR"]


def misfits(data: Data, found: Mapping[str, str]) -> list[str]:
    """What is wrong with the SQL types of the query's columns, a sentence each."""
    moments = ("TIMESTAMP", "DATE", "VARCHAR")
    said = [
        f"{name!r} is a {found[name]}, a number is needed"
        for name in _numbers(data)
        if not is_number(found[name]) and found[name] != "VARCHAR"
    ]
    said += [
        f"{name!r} is a {found[name]}, a timestamp is needed"
        for name in _moments(data)
        if not found[name].startswith(moments) or found[name].endswith("]")
    ]
    return said


def _numbers(data: Data) -> list[str]:
    return [*data.columns.numeric, *([data.columns.target] if data.task.name == "regression" else [])]


def _moments(data: Data) -> list[str]:
    return [data.columns.time] if data.columns.time is not None else []


def breach(data: Data, found: Mapping[str, str]) -> str:
    """An SQL expression: why the row breaks the contract, all reasons in one text, or null where it keeps it.

    It stands over typed columns, and RAW + name beside each of `in_text`.
    """
    reasons = []
    for name in in_text(data, found):
        what = "timestamp" if name == data.columns.time else "number"
        raw = f"trim({identifier(RAW + name)})"
        said = f"{name} is not a {what}"
        reasons.append((f"{identifier(name)} is null and {raw} <> '' and lower({raw}) <> 'nan'", said))
    if data.columns.time is not None:
        time = identifier(data.columns.time)
        blank = f" and coalesce(trim({identifier(RAW + data.columns.time)}), '') = ''"
        alone = blank if data.columns.time in in_text(data, found) else ""
        reasons.append((f"{time} is null{alone}", f"{data.columns.time} is missing"))
        reasons.append((f"isinf({time})", f"{data.columns.time} is infinite"))
    for name, column in (*data.columns.numeric.items(), *data.columns.categorical.items()):
        reasons += _broken(name, column, numeric=name in data.columns.numeric)
    if data.task.name == "regression":
        reasons.append((f"isinf({identifier(data.columns.target)})", f"{data.columns.target} is infinite"))
    if data.columns.key:
        reasons.append((_repeated(data, found), f"a second row for the key {', '.join(data.columns.key)}"))
    cases = ", ".join(f"case when {test} then {literal(said)} end" for test, said in reasons)
    return f"nullif(concat_ws('; ', {cases}), '')" if cases else "cast(null as varchar)"


def _repeated(data: Data, found: Mapping[str, str]) -> str:
    """Whether a row with the same key stands before this one; which one is first follows from the rows alone."""
    key = ", ".join(identifier(name) for name in data.columns.key)
    rest = ", ".join(identifier(name) for name in found if name not in data.columns.key)
    return f"row_number() over (partition by {key} order by {rest}) > 1"


def _broken(name: str, column: Column, *, numeric: bool) -> list[tuple[str, str]]:
    value = identifier(name)
    tests = []
    if not column.nullable:
        tests.append((f"{value} is null", f"{name} is missing"))
    if column.min is not None:
        tests.append((f"{value} < {column.min!r}", f"{name} is below {column.min:g}"))
    if column.max is not None:
        tests.append((f"{value} > {column.max!r}", f"{name} is above {column.max:g}"))
    if column.allowed is not None:
        allowed = ", ".join(literal(word) for word in column.allowed)
        tests.append((f"{value} not in ({allowed})", f"{name} is not one of {', '.join(column.allowed)}"))
    if numeric:
        tests.append((f"isinf({value})", f"{name} is infinite"))
    return tests
