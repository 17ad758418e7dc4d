"""What drift needs from Parquet files too large for memory: a sample of rows, and counts over all of them.

Every column chunk is read once for the counts and once for the sample; memory stays under that of `STREAMING`,
beyond it DuckDB spills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import DataError
from stages.tables import STREAMING, Connection, SqlError, connect, first_line, identifier, literal

COUNTED = 1000
"""Categories that are counted one by one."""

NAMED = 100
"""New categories that are named."""

_SPAN = 1 << 32


@dataclass(frozen=True)
class CategoryCounts:
    """Rows of one categorical column by value on both sides, missing ones apart.

    values are those of most rows, with their rows in `reference` and `current`; the rows of all others
    are in `others`, one number a side. new: the values that the reference never had, with their rows in current, the
    largest first; new_values and new_rows also count those beyond `NAMED`. distinct counts all values of both sides.
    """

    values: tuple[str, ...]
    reference: tuple[int, ...]
    current: tuple[int, ...]
    others: tuple[int, int]
    new: tuple[tuple[str, int], ...]
    new_values: int
    new_rows: int
    distinct: int


@dataclass(frozen=True)
class WindowCounts:
    """rows and missing are pairs: reference, current."""

    rows: tuple[int, int]
    missing: dict[str, tuple[int, int]]
    categories: dict[str, CategoryCounts]


def write_sample(files: Sequence[Path], out: Path, rows: int, seed: int) -> int:
    """Write at most `rows` rows of the files to `out` (Parquet), all columns, in a random order; how many it wrote.

    The same files in the same order and the same seed give the same rows in the same order, wherever the files lie.
    Raises DataError where a file cannot be read.
    """
    with connect(STREAMING) as connection:
        total = sum(_rows(connection, file) for file in files)
        # five standard deviations more than asked for, so that the cut always has enough to cut from
        below = _SPAN if total <= rows else min(_SPAN, int(_SPAN * (rows + 5 * rows**0.5 + 10) / total))
        listed = f"[{', '.join(literal(str(file)) for file in files)}]"
        drawn = (
            f"select * exclude (filename, file_row_number), list_position({listed}, filename) as pinwerk_file, "
            f"file_row_number as pinwerk_row, hash(pinwerk_row, pinwerk_file, {seed}) as pinwerk_draw "
            f"from read_parquet({listed}, filename = true, file_row_number = true, union_by_name = true) "
            f"where pinwerk_draw % {_SPAN} < {below}"
        )
        query = (
            f"copy (select * exclude (pinwerk_draw, pinwerk_file, pinwerk_row) from ({drawn}) "
            f"order by pinwerk_draw % {_SPAN}, pinwerk_file, pinwerk_row limit {rows}) "
            f"to {literal(str(out))} (format parquet)"
        )
        row = _run(connection, query, files, {}).fetchone()
    return int(row[0]) if row else 0


def count_windows(
    reference: Sequence[Path], current: Sequence[Path], numeric: Sequence[str], categorical: Sequence[str]
) -> WindowCounts:
    """Rows, missing values and categories over all rows of both sides; NaN and "" are missing as NULL is.

    Raises DataError where a file cannot be read or lacks a column.
    """
    with connect(STREAMING) as connection:
        sides = [_missing(connection, files, numeric, categorical) for files in (reference, current)]
        categories = {name: _categories(connection, reference, current, name) for name in categorical}
    missing = {name: (sides[0][1][name], sides[1][1][name]) for name in (*numeric, *categorical)}
    return WindowCounts((sides[0][0], sides[1][0]), missing, categories)


def _run(connection: Connection, query: str, files: Sequence[Path], parameters: dict[str, object]) -> Connection:
    try:
        return connection.execute(query, parameters)
    except SqlError as error:
        names = ", ".join(map(str, files))
        said = first_line(error)
        raise DataError(f"{names}: cannot be read for drift: {said}; run `dvc repro prepare`") from error


def _rows(connection: Connection, file: Path) -> int:
    row = _run(connection, "select count(*) from read_parquet($file)", [file], {"file": str(file)}).fetchone()
    return int(row[0]) if row else 0


def _value(column: str) -> str:
    """A numeric column as SQL: a double, or NULL for missing."""
    number = f"cast({identifier(column)} as double)"
    return f"case when isnan({number}) then null else {number} end"


def _text(column: str) -> str:
    return f"coalesce(cast({identifier(column)} as varchar), '')"


def _missing(
    connection: Connection, files: Sequence[Path], numeric: Sequence[str], categorical: Sequence[str]
) -> tuple[int, dict[str, int]]:
    found = [f"count({_value(name)})" for name in numeric]
    found += [f"count(nullif({_text(name)}, ''))" for name in categorical]
    query = f"select {', '.join(['count(*)', *found])} from read_parquet($files)"
    row = _run(connection, query, files, {"files": list(map(str, files))}).fetchone() or ()
    rows, *present = (int(number) for number in row)
    return rows, {name: rows - n for name, n in zip((*numeric, *categorical), present, strict=True)}


def _categories(
    connection: Connection, reference: Sequence[Path], current: Sequence[Path], column: str
) -> CategoryCounts:
    side = f"select {_text(column)} as value, count(*) as n from read_parquet($FILES) group by value having value <> ''"
    query = (
        "create or replace temp table counted as "
        f"with r as ({side.replace('$FILES', '$reference')}), c as ({side.replace('$FILES', '$current')}) "
        "select value, coalesce(r.n, 0) as reference, coalesce(c.n, 0) as current from r full join c using (value)"
    )
    parameters: dict[str, object] = {"reference": list(map(str, reference)), "current": list(map(str, current))}
    _run(connection, query, (*reference, *current), parameters)
    totals = "select coalesce(sum(reference), 0), coalesce(sum(current), 0), count(*) from counted"
    in_reference, in_current, distinct = map(int, connection.execute(totals).fetchone() or (0, 0, 0))
    # by the rows of both sides and then by name: any other order prefers one side, and a test on what it chose alarms
    largest = f"select value, reference, current from counted order by reference + current desc, value limit {COUNTED}"
    shown = connection.execute(largest).fetchall()
    new = "from counted where reference = 0 and current > 0"
    named = connection.execute(f"select value, current {new} order by current desc, value limit {NAMED}").fetchall()
    new_values, new_rows = map(
        int, connection.execute(f"select count(*), coalesce(sum(current), 0) {new}").fetchone() or (0, 0)
    )
    return CategoryCounts(
        values=tuple(str(value) for value, _, _ in shown),
        reference=tuple(int(n) for _, n, _ in shown),
        current=tuple(int(n) for _, _, n in shown),
        others=(in_reference - sum(int(n) for _, n, _ in shown), in_current - sum(int(n) for _, _, n in shown)),
        new=tuple((str(value), int(n)) for value, n in named),
        new_values=new_values,
        new_rows=new_rows,
        distinct=distinct,
    )
