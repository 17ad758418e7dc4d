"""A snapshot holds what the source holds, the same bytes each time; a bad source is one error and changes nothing."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pytest

from stages import tables
from stages.config import Table
from stages.errors import DataError, PinwerkError
from stages.ingest import ingest, without_secrets
from stages.tables import SPILL

OUT = Path("data/raw")
CSV = "id,name,size\n1,Łódź,1.5\n2,,2\n3,東京,\n"
ROWS = [(1, "Łódź", 1.5), (2, None, 2.0), (3, "東京", None)]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def taken(**table: Any) -> list[tuple[Any, ...]]:
    ingest({"t": Table(**table)}, OUT)
    return held()


def held(name: str = "t") -> list[tuple[Any, ...]]:
    with duckdb.connect() as con:
        return con.execute(f"from read_parquet('{OUT}/{name}.parquet')").fetchall()


def digest(name: str = "t") -> str:
    return hashlib.sha256((OUT / f"{name}.parquet").read_bytes()).hexdigest()


def kept(before: dict[str, bytes]) -> bool:
    beside = {p.name for p in OUT.parent.iterdir()} - {SPILL.name}
    return {p.name: p.read_bytes() for p in OUT.iterdir()} == before and beside == {"raw"}


@pytest.fixture
def earlier(in_empty_folder: None) -> dict[str, bytes]:
    """data/raw of an earlier run."""
    Path("good.csv").write_text(CSV, encoding="utf-8")
    taken(path="good.csv")
    return {p.name: p.read_bytes() for p in OUT.iterdir()}


# --- files


def test_a_file_of_an_installed_package() -> None:
    found = taken(package="sklearn", path="datasets/data/wine_data.csv", read={"skip": 1, "header": False})
    assert len(found) == 178
    assert found[0][:2] == (14.23, 1.71)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.csv.zip", "t.CSV"])
def test_a_csv_plain_or_packed(name: str) -> None:
    if name.endswith("gz"):
        with gzip.open(name, "wt", encoding="utf-8") as file:
            file.write(CSV)
    elif name.endswith("zip"):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("folder/inner.csv", CSV)
            archive.writestr("__MACOSX/._inner.csv", "x")
    else:
        Path(name).write_text(CSV, encoding="utf-8")
    assert taken(path=name) == ROWS


def test_a_parquet_file_and_json_lines_give_the_same_rows() -> None:
    frame = pd.DataFrame(ROWS, columns=["id", "name", "size"])
    frame.to_parquet("t.parquet")
    assert taken(path="t.parquet") == ROWS
    Path("t.jsonl").write_text(frame.to_json(orient="records", lines=True, force_ascii=False), encoding="utf-8")
    assert taken(path="t.jsonl") == ROWS


def test_a_format_may_be_said_where_the_name_does_not() -> None:
    Path("t.dat").write_text(CSV, encoding="utf-8")
    assert taken(path="t.dat", format="csv") == ROWS
    with pytest.raises(DataError, match=r"data.tables.t.path: what is t.dat\? Say `format: csv`"):
        taken(path="t.dat")


def test_types_come_from_every_row_of_a_csv() -> None:
    Path("t.csv").write_text("a\n" + "1\n" * 50_000 + "1.5\n", encoding="utf-8")
    assert taken(path="t.csv")[-1] == (1.5,)


def test_latin_1_is_read_when_it_is_said() -> None:
    Path("t.csv").write_bytes("a,b\n1,Zürich\n".encode("latin-1"))
    assert taken(path="t.csv", read={"encoding": "latin-1"}) == [(1, "Zürich")]


def test_moments_with_a_zone_become_naive_utc() -> None:
    pd.DataFrame({"at": pd.to_datetime(["2026-07-01 09:00"]).tz_localize("Asia/Tokyo")}).to_parquet("t.parquet")
    assert taken(path="t.parquet") == [(datetime(2026, 7, 1),)]


def test_the_same_csv_gives_the_same_bytes_with_one_thread_and_two(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"n": np.arange(300_000), "x": random.normal(size=300_000).round(3)})
    frame.assign(word=random.choice(["a", "bb", "ccc", None], 300_000)).to_csv("t.csv", index=False)
    found = set()
    connect = duckdb.connect
    for threads in (1, 2, 2):
        settings = functools.partial(_connected, connect, threads)
        monkeypatch.setattr(tables.duckdb, "connect", settings)
        ingest({"t": Table(path="t.csv")}, OUT)
        found.add(digest())
    assert len(found) == 1


def _connected(connect: Any, threads: int, config: dict[str, Any]) -> Any:
    return connect(config={**config, "threads": threads})


# --- URLs


def test_fsspec_paths() -> None:
    Path("t.csv").write_text(CSV, encoding="utf-8")
    assert taken(path=Path("t.csv").resolve().as_uri()) == ROWS
    with fsspec.open("memory://folder/t.csv", "wb") as file:
        file.write(CSV.encode())
    assert taken(path="memory://folder/t.csv") == ROWS


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An HTTP server of the folder `www`."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(_Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_http(server: str) -> None:
    Path("www/t.csv").write_text(CSV, encoding="utf-8")
    assert taken(path=f"{server}/t.csv") == ROWS
    assert taken(path=f"{server}/t.csv?token=abcdef") == ROWS


def test_a_url_that_is_not_there_is_one_error_without_its_secrets(server: str, earlier: dict[str, bytes]) -> None:
    host = server.removeprefix("http://")
    url = f"http://reader:hush-hush@{host}/no.csv?signature=abcdef123"
    with pytest.raises(DataError, match=r"data.tables.t.path: http://….*/no.csv.*there is no such file") as caught:
        taken(path=url)
    assert not any(secret in str(caught.value) for secret in ("hush", "reader", "abcdef"))
    with pytest.raises(DataError, match=r"data.tables.t.path: http://127.0.0.1:1/t.csv: Client(Connector|OS)Error"):
        taken(path="http://127.0.0.1:1/t.csv")
    with pytest.raises(DataError, match=r"data.tables.t.path: nosuch://x/t.csv: ValueError: Protocol not known"):
        taken(path="nosuch://x/t.csv")
    assert kept(earlier)


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        endpoint = f"http://127.0.0.1:{moto.get_host_and_port()[1]}"
        for key, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1",
                           "AWS_ENDPOINT_URL": endpoint}.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        s3 = boto3.client("s3", endpoint_url=endpoint)
        s3.create_bucket(Bucket="lake")
        s3.put_object(Bucket="lake", Key="in/t.csv", Body=CSV.encode())
        assert taken(path="s3://lake/in/t.csv") == ROWS
        with pytest.raises(DataError, match=r"s3://lake/in/no.csv: there is no such file"):
            taken(path="s3://lake/in/no.csv")
        s3.close()
    finally:
        moto.stop()


# --- databases


def test_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect("t.db") as con:
        con.execute("create table t (id integer, name text, size real)")
        con.executemany("insert into t values (?, ?, ?)", ROWS)
    con.close()
    monkeypatch.setenv("TEST_DB", "sqlite:///t.db")
    assert taken(database="TEST_DB", query="select * from t order by id") == ROWS


def test_types_of_a_database_are_known_only_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite has a type a value: a column may start with 60,000 nulls, and turn from integers to floats."""
    monkeypatch.setenv("TEST_DB", "sqlite://")
    query = """
    with recursive n(i) as (select 0 union all select i + 1 from n where i < 120000)
    select i, case when i > 60000 then 'x' || i end as late, case when i < 110000 then i else i + 0.5 end as grows,
      null as never from n
    """
    found = taken(database="TEST_DB", query=query)
    assert [row[1] for row in found[60_000:60_002]] == [None, "x60001"]
    assert found[0][:3] == (0, None, 0.0)
    assert found[-1] == (120_000, "x120000", 120_000.5, None)
    first = digest()
    taken(database="TEST_DB", query=query)
    assert digest() == first


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select * from orders", r"the query to \$TEST_DB failed: no such table: orders"),
        ("selekt", r"failed: near \"selekt\""),
        ("select 1 as a, 2 as a", "data.tables.t.query: yields a more than once"),
        ("select 1 as a union all select 'x'", "column a: .*cast it in the query"),
        ("select 1 as a where 1 = 0", r"the query to \$TEST_DB has no rows"),
    ],
)
def test_a_query_that_fails_is_one_error(
    query: str, said: str, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DB", "sqlite://")
    with pytest.raises(DataError, match=said):
        taken(database="TEST_DB", query=query)
    assert kept(earlier)


def test_a_database_that_is_not_set_or_no_url_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data.tables.t.database: the environment variable TEST_DB is not set"):
        taken(database="TEST_DB", query="select 1")
    for url in ("hush-hush", "postgresql+psycopg//reader:hush-hush@host/db", "nosuch://reader:hush-hush@host/db"):
        monkeypatch.setenv("TEST_DB", url)
        with pytest.raises(DataError, match=r"data.tables.t: the query to \$TEST_DB failed") as caught:
            taken(database="TEST_DB", query="select 1")
        assert "hush" not in str(caught.value)


def test_a_password_is_taken_out_of_any_message() -> None:
    url = "postgresql://ann:p%40ss@word@db.example/x?sslpassword=sesame"
    said = without_secrets("cannot reach ann:p%40ss@word@db.example, p@ss@word, word@db, sesame at db.example", url)
    assert not any(secret in said for secret in ("p%40", "p@ss", "word", "sesame"))
    assert "db.example" in said
    assert without_secrets("https://host/t.csv is gone", "https://host/t.csv") == "https://host/t.csv is gone"


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        why = "PostgreSQL is not installed (apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found[-1].parent


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private cluster, run by a user that is not root (PostgreSQL refuses root); its URL."""
    programs = _postgres_programs()
    root = os.geteuid() == 0
    folder = Path("/tmp") / f"pinwerk-pg-{os.getpid()}"  # a path of its own: others may not enter pytest's
    folder.mkdir(mode=0o755)
    user = ["runuser", "-u", "postgres", "--"] if root else []
    if root:
        shutil.chown(folder, "postgres")
    secret = folder / "password"
    secret.write_text("hush@hush/1")
    secret.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*command: str) -> None:
        subprocess.run([*user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    try:
        call(str(programs / "initdb"), "-D", data, "-U", "ann", "-A", "scram-sha-256", "--pwfile", str(secret), "-N")
        call(str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o",
             f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off", "start")  # fmt: skip
        yield f"postgresql+psycopg://ann:hush%40hush%2F1@127.0.0.1:{port}/postgres"
    finally:
        if Path(data, "postmaster.pid").exists():
            call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_postgres_keeps_values_of_every_kind(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DB", postgres)
    query = """
    select i::bigint as i, case when i > 60000 then i end as late, (i / 4.0)::numeric(12, 2) as price,
      '2026-07-01 09:00+09'::timestamptz as at, '2026-07-01 09:00'::timestamp as local, date '2026-07-01' as day,
      '\\x00ff'::bytea as raw, 'Łódź 東京' as word, i % 2 = 0 as even, '{"b": 1, "a": [1]}'::jsonb as tree,
      '6ec57f84-c680-4d3a-977b-000000000001'::uuid as code, array[1, 2] as list, null::text as never,
      'NaN'::numeric as nan
    from generate_series(0, 70000) as i order by i
    """
    found = taken(database="TEST_DB", query=query)
    assert len(found) == 70_001
    assert found[0][:2] == (0, None)
    assert found[-1][:3] == (70_000, 70_000, 17_500.0)
    at, local, day, raw, word, even, tree, code, items, never, nan = found[1][3:]
    assert (at, local, day) == (datetime(2026, 7, 1), datetime(2026, 7, 1, 9), datetime(2026, 7, 1).date())
    assert (raw, word, even, never) == (b"\x00\xff", "Łódź 東京", False, None)
    assert (tree, code, items) == ('{"a": [1], "b": 1}', "6ec57f84-c680-4d3a-977b-000000000001", "[1, 2]")
    assert nan != nan
    first = digest()
    taken(database="TEST_DB", query=query)
    assert digest() == first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hush%40hush%2F1", "wrong-secret", "password authentication failed"),
        ("hush%40hush%2F1", "wrong@secret", "failed"),  # an unescaped @ makes a part of it the host
        ("/postgres", "/nosuch", 'database "nosuch" does not exist'),
    ],
)
def test_a_refused_connection_says_why_and_never_the_password(
    postgres: str, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    monkeypatch.setenv("TEST_DB", postgres.replace(old, new))
    with pytest.raises(DataError, match=said) as caught:
        taken(database="TEST_DB", query="select 1")
    assert not any(secret in str(caught.value) for secret in ("hush", "secret"))
    assert kept(earlier)


def test_a_missing_table_of_postgres_is_named(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DB", postgres)
    with pytest.raises(DataError, match='relation "orders" does not exist'):
        taken(database="TEST_DB", query="select * from orders")


# --- bad input


def _truncated(path: str, content: bytes) -> None:
    Path(path).write_bytes(content[: len(content) // 2])


def _bad(kind: str) -> str:
    """A bad source of that kind; its path."""
    if kind == "latin-1":
        Path("bad.csv").write_bytes(b"a,b\n" + "1,Zürich\n".encode("latin-1") * 20)
        return "bad.csv"
    if kind == "truncated parquet":
        pd.DataFrame({"a": np.arange(10_000)}).to_parquet("bad.parquet", compression="zstd")
        content = Path("bad.parquet").read_bytes()
        _truncated("bad.parquet", content)
        return "bad.parquet"
    if "zip" in kind:
        with zipfile.ZipFile("bad.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(2 if "two" in kind else 0 if "nothing" in kind else 1):
                archive.writestr(f"{number}.csv", "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(5000)))
        content = Path("bad.csv.zip").read_bytes()
        if kind.startswith("trunc"):
            _truncated("bad.csv.zip", content)
        elif kind.startswith("flipped"):
            Path("bad.csv.zip").write_bytes(content[:2000] + bytes([content[2000] ^ 255]) + content[2001:])
        return "bad.csv.zip"
    if kind == "truncated gz":
        _truncated("bad.csv.gz", gzip.compress(CSV.encode() * 1000))
        return "bad.csv.gz"
    text = {"empty": "", "header only": "a,b\n", "broken json": '{"a": 1}\n{"a": \n'}[kind]
    path = "bad.jsonl" if "json" in kind else "bad.csv"
    Path(path).write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("latin-1", r"bad.csv is not readable as csv: .*is it UTF-8\? data.tables.t.read: \{encoding: latin-1\}"),
        ("truncated parquet", "bad.parquet is not readable as parquet"),
        ("truncated zip", "data.tables.t.path: bad.csv.zip is no whole zip file"),
        ("flipped zip", "data.tables.t.path: bad.csv.zip is no whole zip file"),
        ("zip of two", "bad.csv.zip should hold one file, it holds 0.csv, 1.csv"),
        ("zip of nothing", "bad.csv.zip should hold one file, it holds nothing"),
        ("truncated gz", "bad.csv.gz is not readable as csv"),
        ("empty", r"bad.csv (has no rows|is not readable as csv)"),
        ("header only", "bad.csv has no rows"),
        ("broken json", "bad.jsonl is not readable as json"),
    ],
)
def test_a_bad_file_is_one_error_and_what_was_there_stays(kind: str, said: str, earlier: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=said) as caught:
        ingest({"good": Table(path="good.csv"), "t": Table(path=_bad(kind))}, OUT)
    assert str(caught.value).startswith("data.tables.t")
    assert kept(earlier)


def test_a_missing_file_is_named_with_the_nearest(earlier: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=r"data.tables.t.path: there is no file god.csv \(did you mean 'good.csv'\?\)"):
        taken(path="god.csv")
    with pytest.raises(DataError, match=r"data.tables.t.package: 'nosuchpackage' is not installed"):
        taken(package="nosuchpackage", path="x.csv")
    with pytest.raises(DataError, match=r"data.tables.t.path: package sklearn has no file data/wine.csv"):
        taken(package="sklearn", path="data/wine.csv")
    assert kept(earlier)


def test_an_option_that_the_reader_does_not_know_is_named() -> None:
    Path("t.csv").write_text(CSV, encoding="utf-8")
    with pytest.raises(DataError, match=r"data.tables.t: t.csv is not readable as csv: .*delimitor"):
        taken(path="t.csv", read={"delimitor": ";"})


def test_a_full_disk_is_one_error_and_the_earlier_snapshot_stays(tmp_path: Path) -> None:
    disk = tmp_path / "data"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        Path("good.csv").write_text(CSV, encoding="utf-8")
        taken(path="good.csv")
        before = {p.name: p.read_bytes() for p in OUT.iterdir()}
        random = np.random.default_rng(0)
        pd.DataFrame({"x": random.normal(size=300_000)}).to_parquet("big.parquet")
        with pytest.raises(PinwerkError, match=r"data/raw: could not be written \(No space left on device\)"):
            taken(path="big.parquet")
        assert kept(before)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
