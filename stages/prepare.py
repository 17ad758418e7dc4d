"""Run the one query, hold every row against the contract, look for leaks, and part the rows into splits."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.config import Config, Data, load_config, nearest
from stages.contract import FLOATS, WHOLE, breach, in_text, misfits, typed
from stages.contract import RAW as RAW_TEXT
from stages.errors import DataError, run_stage
from stages.files import PREPARED, QUERY, RAW, REPORTS, replacing, write_atomically
from stages.profile import profile
from stages.splitting import order, side, unit
from stages.tables import (
    Connection,
    SqlError,
    columns_of,
    connect,
    copy_parquet,
    first_line,
    full_disk,
    identifier,
    literal,
    one_select,
    out_of_memory,
    varying,
    view_tables,
    write_parquet,
)

if TYPE_CHECKING:
    import pyarrow as pa

REPORT = REPORTS / "profile.json"
SPLITS = ("train", "validation", "test", "current")
YIELDED, JUDGED = "yielded.parquet", "judged.parquet"  # on the way only
TELLING_ROWS = 50_000  # of train, for the features that alone tell the target


def main() -> None:
    started = time.perf_counter()
    config = load_config("prepare")
    report = prepare(config, read_query(QUERY), PREPARED)
    write_atomically(REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    counts = ", ".join(f"{name} {report['splits'][name]['rows']:,}" for name in SPLITS)
    aside = f"{report['unlabelled']:,} without a label, {report['quarantined']:,} quarantined"
    print(f"prepare: {counts} rows ({aside}) in {time.perf_counter() - started:.1f} s → {PREPARED}, {REPORT}")


def read_query(path: Path) -> str:
    """The text of the query. Raises DataError where there is none or it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; run `dvc repro configure`") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save the query as UTF-8") from None


def prepare(config: Config, query: str, out: Path, raw: Path = RAW) -> dict[str, Any]:
    """Write the splits, quarantine.parquet and unlabelled.parquet into `out`; the profile of each split.

    `out` is replaced only when all of it is right. Raises DataError for a query that fails or does not yield what the
    config names, for too many quarantined rows, for a leak, for a split that cannot be trained or tested on.
    """
    data = config.data
    tables = {name: raw / f"{name}.parquet" for name in data.tables}
    with replacing(out) as folder, connect(config.engine, only=[*tables.values(), folder]) as con:
        view_tables(con, tables)
        select = one_select(con, query, data.query)
        _repeatable(con, data, select)
        try:
            counts = _part(con, data, select, folder)
            splits = {name: profile(con, data, folder / f"{name}.parquet") for name in SPLITS}
        except SqlError as error:
            full_disk(error)
            out_of_memory(error)
            raise DataError(f"{data.query}: the query failed: {first_line(error)}") from None
        report = {"data": data.name, **counts, "splits": splits}
        _usable(data, report)
        _without_leaks(con, config, select, folder)
        for name in (YIELDED, JUDGED):
            (folder / name).unlink()
    return report


def _repeatable(con: Connection, data: Data, query: str) -> None:
    """Raise DataError where the query calls what may give another answer each time: DVC could not see it change."""
    found = varying(con, query)
    if found:
        raise DataError(
            f"{data.query}: {', '.join(found)}: may give another answer each time, and DVC cannot watch that; for a "
            "moment take a column or a date such as data.as_of, for chance a hash of the key"
        )


def _part(con: Connection, data: Data, query: str, folder: Path) -> dict[str, Any]:
    """Run the query once and write every row to exactly one file, in one order; how many went aside."""
    found = _yielded(con, data, query)
    names = ", ".join(identifier(name) for name in found)
    copy_parquet(con, f"select {names} from (\n{query}\n)", folder / YIELDED)
    found |= _whole_classes(con, data, found, folder)
    copy_parquet(con, _judged(data, found, folder), folder / JUDGED)
    judged = f"read_parquet({literal(str(folder / JUDGED))})"
    ((total,),) = con.execute(f"select count(*) from {judged}").fetchall()
    text = in_text(data, found)
    as_yielded = ", ".join(f"{identifier(RAW_TEXT + n if n in text else n)} as {identifier(n)}" for n in found)
    broken = write_parquet(
        con,
        f"select {as_yielded}, pinwerk_reason from {judged} where pinwerk_part = 'quarantine'",
        folder / "quarantine.parquet",
    )
    _few_enough(con, data, broken, total, folder)
    rows = {
        name: write_parquet(
            con, f"select {names} from {judged} where pinwerk_part = {literal(name)}", folder / f"{name}.parquet"
        )
        for name in ("unlabelled", *SPLITS)
    }
    return {
        "rows": total,
        "unlabelled": rows["unlabelled"],
        "quarantined": broken,
        "reasons": _reasons(con, folder),
        "outside": total - broken - sum(rows.values()),  # after the current window, or in no predefined split
    }


def _whole_classes(con: Connection, data: Data, found: dict[str, str], folder: Path) -> dict[str, str]:
    """The type of a target of classes that came as floats because some are missing."""
    target = data.columns.target
    if data.task.name == "regression" or found[target] not in FLOATS:
        return {}
    column, path = identifier(target), literal(str(folder / YIELDED))
    ((whole,),) = con.execute(
        f"select bool_and(isnan({column}) or ({column} = floor({column}) and abs({column}) < 1e15)) "
        f"from read_parquet({path})"
    ).fetchall()
    return {target: WHOLE} if whole else {}


def _judged(data: Data, found: dict[str, str], folder: Path) -> str:
    """A select of the rows as the query yielded them: typed, in order, with what breaks the contract and their part."""
    columns = ", ".join(typed(data, name, kind) for name, kind in found.items())
    raw = "".join(f", {identifier(name)} as {identifier(RAW_TEXT + name)}" for name in in_text(data, found))
    rows = f"select {columns}{raw} from read_parquet({literal(str(folder / YIELDED))})"
    reasoned = f"select *, {breach(data, found)} as pinwerk_reason from ({rows})"
    drawn = f"select *, {unit(data)} as pinwerk_u from ({reasoned})"
    falls = side(data.split, data.as_of, data.columns.time)
    # what is not labelled yet says nothing about a model, but a lot about the world: drift watches it
    part = (
        f"case when pinwerk_reason is not null then 'quarantine' when {identifier(data.columns.target)} is null "
        f"and ({falls}) is distinct from 'current' then 'unlabelled' else {falls} end"
    )
    # time, key and the rest, what text said included: one order for the same rows, whatever the number of threads
    names = dict.fromkeys([*data.columns.key, *found, *(RAW_TEXT + name for name in in_text(data, found))])
    ordered = ", ".join([order(data), *(identifier(name) for name in names)])
    return f"select * exclude (pinwerk_u), {part} as pinwerk_part from ({drawn}) order by {ordered}"


def _reasons(con: Connection, folder: Path) -> dict[str, int]:
    """Quarantined rows by reason, the most common first."""
    path = literal(str(folder / "quarantine.parquet"))
    rows = con.execute(
        f"select pinwerk_reason, count(*) from read_parquet({path}) group by 1 order by 2 desc, 1"
    ).fetchall()
    return {str(reason): int(count) for reason, count in rows}


def _yielded(con: Connection, data: Data, query: str) -> dict[str, str]:
    """The named columns of the query and their types. Raises DataError for one that is absent or of no fitting type."""
    try:
        found = columns_of(con, f"(\n{query}\n)")
    except SqlError as error:
        raise DataError(f"{data.query}: the query does not run: {' '.join(str(error).split())}") from None
    absent = [name for name in _named(data) if name not in found]
    where = f"conf/data/{data.name}.yaml"
    if absent:
        said = "; ".join(f"{name!r} is not a column of {data.query.name}{nearest(name, found)}" for name in absent)
        raise DataError(f"{where}: {said}; it yields {', '.join(found)}")
    kept = {name: found[name] for name in _named(data)}
    wrong = misfits(data, kept)
    if wrong:
        raise DataError(f"{where}: {'; '.join(wrong)}; cast it in {data.query}")
    return kept


def _named(data: Data) -> list[str]:
    c, split = data.columns, data.split
    names = [c.target, c.time, *c.key, *c.features, *c.passthrough, *data.slices, split.groups, split.column]
    return list(dict.fromkeys(name for name in names if name))


def _few_enough(con: Connection, data: Data, broken: int, total: int, folder: Path) -> None:
    if total == 0:
        raise DataError(f"{data.query}: the query yields no rows")
    kept = Path("data/quarantine.parquet")
    if broken <= data.quarantine * total:
        kept.unlink(missing_ok=True)  # of an earlier run
        return
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "quarantine.parquet", kept)
    reasons = "".join(f"\n  {count:,} rows: {reason}" for reason, count in list(_reasons(con, folder).items())[:5])
    raise DataError(
        f"conf/data/{data.name}.yaml: {broken:,} of {total:,} rows break the contract, more than quarantine: "
        f"{data.quarantine:g} allows; they are in {kept}. Mend the query or the contract:{reasons}"
    )


def _usable(data: Data, report: dict[str, Any]) -> None:
    """Raise DataError where a split has no rows, one class or no values."""
    where = f"conf/data/{data.name}.yaml"
    splits = report["splits"]
    for name in ("train", "validation", "test"):
        if splits[name]["rows"] == 0:
            raise DataError(
                f"{where}: the {name} split has no rows; change data.as_of or data.split ({_reach(report)})"
            )
    if data.task.name != "regression":
        _enough_classes(data, splits, where)
    empty = [n for n in data.columns.features if splits["train"]["columns"][n]["missing"] == splits["train"]["rows"]]
    if empty:
        raise DataError(
            f"{where}: {', '.join(empty)}: no value at all in train; mend the query or leave the column out"
        )


def _enough_classes(data: Data, splits: dict[str, Any], where: str) -> None:
    classes = splits["train"]["target"]["classes"]
    wanted = "exactly 2" if data.task.name == "binary" else "at least 3"
    if (len(classes) == 2) != (data.task.name == "binary") or len(classes) < 2:
        raise DataError(
            f"{where}: task {data.task.name} needs {wanted} classes in train, target {data.columns.target!r} has "
            f"{len(classes)}: {', '.join(list(classes)[:10])}"
        )
    for name in ("validation", "test"):
        held = splits[name]["target"]["classes"]
        if len(held) < 2:
            raise DataError(
                f"{where}: every row of the {name} split has {data.columns.target} {next(iter(held))}; with one class "
                f"nothing can be measured there: change data.split or data.as_of"
            )


def _reach(report: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {split['rows']:,} rows" + (f" {split['from']} to {split['to']}" if split.get("from") else "")
        for name, split in report["splits"].items()
    )


def _without_leaks(con: Connection, config: Config, query: str, folder: Path) -> None:
    """Raise DataError naming every feature that tells the target, or is not known in time, and is not accepted."""
    from stages.dataset import split_of
    from stages.leakage import find_late_columns, find_telling_columns

    data = config.data
    train = split_of(_sampled(con, folder / "train.parquet"), data.columns, data.task)
    leaks = find_telling_columns(train.X, train.y, data.task.name, limit=data.leakage.limit, seed=data.split.seed)
    late = {name: table.known_late for name, table in data.tables.items() if table.known_late}
    c, seen = data.columns, f"read_parquet({literal(str(folder / YIELDED))})"
    if late and c.time is not None:
        leaks += find_late_columns(con, query, late, time=c.time, keys=c.key, features=c.features, rows=seen)
    found = [leak for leak in leaks if leak.column not in data.leakage.accepted]
    if found:
        names = ", ".join(dict.fromkeys(leak.column for leak in found))
        listed = "".join(f"\n  {leak.column}: {leak.kind}: {leak.detail}" for leak in found)
        raise DataError(
            f"conf/data/{data.name}.yaml: features that a prediction could not have had:{listed}\n  Leave them out of "
            f"the query, or say that they are right with data.leakage.accepted: [{names}]"
        )


def _sampled(con: Connection, path: Path) -> pa.Table:
    """About TELLING_ROWS rows from all over a Parquet file, the same each time: never the whole table in memory."""
    file = f"read_parquet({literal(str(path))}, file_row_number = true)"
    ((rows,),) = con.execute(f"select count(*) from {file}").fetchall()
    share = min(1.0, TELLING_ROWS / max(1, rows))
    # multiplying by 2^32 / golden ratio spreads the row numbers evenly and out of step with any period
    return con.sql(
        f"select * exclude (file_row_number) from {file} "
        f"where file_row_number * 2654435769 % 4294967296 < {share!r} * 4294967296"
    ).to_arrow_table()


if __name__ == "__main__":
    run_stage(main)
