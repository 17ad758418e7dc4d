"""Which split a row belongs to, as SQL. It follows from the row alone, so more data never moves an old row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stages.config import Data, Split
from stages.tables import identifier, literal


def unit(data: Data) -> str:
    """An SQL expression: a number in [0, 1), the hash of the row's key (of its group; of the whole row where it has
    no key) and data.split.seed. `stratified` takes the rank of that hash within the class instead, among rows that keep
    the contract (`pinwerk_reason` is null): exact shares, and a row near a border may move when rows are added."""
    split, columns = data.split, data.columns
    if split.by in ("time", "predefined"):
        return "cast(0 as double)"
    digest = _digest(data, [split.groups] if split.by == "grouped" and split.groups else list(columns.key))
    # the first 13 hexadecimal digits: 52 bits, exact in a double
    hashed = f"cast(cast('0x' || substr({digest}, 1, 13) as bigint) as double) / 4503599627370496.0"
    if split.by != "stratified":
        return hashed
    stratum = f"{identifier(columns.target)}, pinwerk_reason is null"
    return (
        f"(row_number() over (partition by {stratum} order by {digest}) - 0.5) / count(*) over (partition by {stratum})"
    )


def order(data: Data) -> str:
    """An SQL expression to order rows by first: time, or else a hash of the row, so that no order of classes or keys
    in the source misleads whoever takes the first or the last rows."""
    return identifier(data.columns.time) if data.columns.time is not None else _digest(data, [])


def _digest(data: Data, names: list[str]) -> str:
    """The md5 of the named columns, or of the whole row where none is named, and the seed."""
    columns = data.columns
    names = names or [columns.target, *columns.key, *columns.features, *columns.passthrough]
    parts = ", ".join(f"coalesce(cast({identifier(name)} as varchar), '\\0')" for name in names)
    return f"md5(concat_ws('\\x1f', {literal(str(data.split.seed))}, {parts}))"


def side(split: Split, as_of: datetime | None, time: str | None) -> str:
    """An SQL expression over the row and its `pinwerk_u`: train, validation, test, current, or null for none of them.

    Each window by time begins at its start and ends just before the next one's.
    """
    if split.by == "predefined":
        assert split.column is not None
        column = identifier(split.column)
        return f"case when cast({column} as varchar) in ('train', 'validation', 'test', 'current') then {column} end"
    if split.by == "time":
        assert as_of is not None
        assert time is not None
        assert isinstance(split.test, timedelta)
        assert isinstance(split.validation, timedelta)
        assert isinstance(split.current, timedelta)
        if as_of.tzinfo is not None:
            as_of = as_of.astimezone(UTC).replace(tzinfo=None)
        ends = {
            "train": as_of - split.test - split.validation,
            "validation": as_of - split.test,
            "test": as_of,
            "current": as_of + split.current,
        }
        cases = " ".join(f"when {identifier(time)} < timestamp '{end}' then '{name}'" for name, end in ends.items())
        return f"case {cases} end"
    edges, reached = [], 0.0
    for name in ("test", "validation", "current"):
        share = getattr(split, name)
        assert isinstance(share, float)
        reached += share
        edges.append(f"when pinwerk_u < {reached!r} then '{name}'")
    return f"case {' '.join(edges)} else 'train' end"
