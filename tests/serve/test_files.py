"""A table goes up and comes back with its answers: in order, with the bits of /predict, in bounded memory."""

from __future__ import annotations

import csv
import http.client
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.formats import ARROW, CSV, PARQUET
from serve.runtime import Predictor
from stages.bundle import Rows
from tests.serve.conftest import SIGNATURE, table
from tests.serve.running import Service, lay_out, running

PROBABILITIES = ["probability_a", "probability_b", "probability_c"]


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = lay_out(tmp_path_factory.mktemp("files") / "home", small_bundle)
    with running(home, tmp_path_factory.mktemp("scratch")) as service:
        yield service


def rows(count: int = 10_000) -> pd.DataFrame:
    """More than two batches, with columns that the model does not take on both sides."""
    X = table(count, seed=11)
    X.insert(0, "id", [f"r{i}, “é”" for i in range(count)])
    X["grade"] = "a"
    return X


def written(X: pd.DataFrame, kind: str) -> bytes:
    out = io.BytesIO()
    if kind == CSV:
        X.to_csv(out, index=False)
    elif kind == PARQUET:
        X.to_parquet(out, index=False)
    else:
        data = pa.Table.from_pandas(X, preserve_index=False)
        with pa.ipc.new_stream(out, data.schema) as writer:
            writer.write_table(data, max_chunksize=3000)
    return out.getvalue()


def read(body: bytes, kind: str) -> pd.DataFrame:
    if kind == CSV:
        return pd.read_csv(io.BytesIO(body), keep_default_na=False, dtype=str)
    if kind == PARQUET:
        return pq.read_table(io.BytesIO(body)).to_pandas()
    return pa.ipc.open_stream(body).read_all().to_pandas()


@pytest.mark.parametrize("kind", [CSV, ARROW, PARQUET])
def test_a_table_comes_back_whole_and_in_order_with_the_bits_of_the_bundle(
    service: Service, predictor: Predictor, kind: str
) -> None:
    X = rows()
    expected = predictor.answers(Rows.of(X, SIGNATURE))
    answer = service.ask("/predict/file", written(X, kind), {"content-type": kind})
    assert answer.status == 200, answer.body[:300]
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-model-md5"] == predictor.md5
    got = read(answer.body, kind)
    assert list(got.columns) == [*X.columns, "prediction", *PROBABILITIES]
    assert got["id"].tolist() == X["id"].tolist()
    assert got["prediction"].tolist() == expected.labels
    assert got[PROBABILITIES].astype(float).to_numpy().tolist() == expected.scores
    if kind != CSV:
        pd.testing.assert_frame_equal(got[list(X.columns)], X, check_dtype=False)


def test_a_row_of_a_file_gets_the_bits_that_predict_gives(service: Service) -> None:
    X = table(30, seed=4)
    told = read(service.ask("/predict/file", written(X, CSV), {"content-type": CSV}).body, CSV)
    records = json.loads(X.to_json(orient="records", double_precision=15))
    records = [
        {**record, **{n: None if X[n][i] != X[n][i] else float(X[n][i]) for n in ("size", "weight")}}
        for i, record in enumerate(records)
    ]
    body = json.dumps(records).encode()
    answers = json.loads(service.ask("/predict?probabilities=true", body).body)
    assert told["prediction"].tolist() == [one["prediction"] for one in answers]
    expected = [list(one["probabilities"].values()) for one in answers]
    assert told[PROBABILITIES].astype(float).to_numpy().tolist() == expected


@pytest.mark.parametrize("kind", [CSV, ARROW, PARQUET])
def test_a_client_that_does_not_say_what_it_sends_is_understood(service: Service, kind: str) -> None:
    X = table(5)
    for said in ("application/octet-stream", "application/x-www-form-urlencoded"):
        answer = service.ask("/predict/file", written(X, kind), {"content-type": said})
        assert answer.headers["content-type"].startswith(kind)
        assert len(read(answer.body, kind)) == 5


def test_a_file_in_a_form_is_taken_as_well(service: Service) -> None:
    X = rows(9000)
    file = written(X, CSV)
    head = 'content-disposition: form-data; name="file"; filename="x.csv"\r\ncontent-type: text/csv'
    other = 'content-disposition: form-data; name="note"\r\n\r\nhello'
    body = f"--XX\r\n{other}\r\n--XX\r\n{head}\r\n\r\n".encode() + file + b"\r\n--XX--\r\n"
    answer = service.ask("/predict/file", body, {"content-type": "multipart/form-data; boundary=XX"})
    assert answer.body == service.ask("/predict/file", file, {"content-type": CSV}).body


HEADER = b"size,weight,colour\n"


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (HEADER + b"1,2,red\n1,wide,red\n", CSV, 422, "line 3: weight is 'wide'; expected a number"),
        (HEADER + b"1,inf,red\n", CSV, 422, "line 2: weight is 'inf'; expected a number"),
        (HEADER + b"1,1_0,red\n", CSV, 422, "line 2: weight is '1_0'; expected a number"),
        (HEADER + "1,٣,red\n".encode(), CSV, 422, "line 2: weight is '٣'; expected a number"),
        (HEADER + b"1,2\n", CSV, 422, "line 2: 2 fields, the header has 3"),
        (b"size,wieght,colour\n1,2,red\n", CSV, 422, "no column weight (is it 'wieght'?)"),
        (b"size,weight,colour,size\n1,2,red,3\n", CSV, 422, "two columns are called 'size'"),
        (b"size,weight,colour,prediction\n1,2,red,3\n", CSV, 422, "a column prediction already"),
        (HEADER + b'1,2,"re', CSV, 400, "not CSV"),
        (HEADER + b"1,2,\xff\n", CSV, 400, "is not UTF-8"),
        (HEADER + b"1,2," + b"x" * 1_100_000, CSV, 413, "a record of more than"),
        (HEADER + b'1,2,"' + b"x\n" * 600_000, CSV, 400, "field larger than"),
        (b"", CSV, 400, "the file is empty"),
        (b"PAR1 and no more", PARQUET, 400, "not Parquet"),
        (b"\xff\xff\xff\xff\x10\x00", ARROW, 400, "not an Arrow IPC stream"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", ARROW, 413, "record batch of more than"),
        (b"ARROW1", "application/octet-stream", 415, "IPC stream format"),
        (b"{}", "application/json", 415, "expected one of text/csv"),
        (b"--X\r\n\r\n--X--\r\n", "multipart/form-data; boundary=X", 400, "has no file"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_says_why(
    service: Service, body: bytes, kind: str, status: int, said: str
) -> None:
    answer = service.ask("/predict/file", body, {"content-type": kind})
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert said in json.loads(answer.body)["detail"]


def test_a_wrong_value_of_a_typed_table_is_named_by_row_and_column(service: Service) -> None:
    X = table(6).assign(weight=[1.0, 2, 3, float("inf"), 5, 6])
    answer = service.ask("/predict/file", written(X, PARQUET), {"content-type": PARQUET})
    assert json.loads(answer.body)["detail"].startswith("row 3: weight is inf")
    answer = service.ask("/predict/file", written(X.assign(weight="x"), ARROW), {"content-type": ARROW})
    assert "the column weight is of the type" in json.loads(answer.body)["detail"]


def test_an_answer_in_another_format_is_not_promised(service: Service) -> None:
    answer = service.ask("/predict/file", HEADER, {"content-type": CSV, "accept": PARQUET})
    assert answer.status == 406
    assert service.ask("/predict/file", HEADER, {"content-type": CSV, "accept": "text/*;q=1"}).status == 200


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("kind", [CSV, ARROW])
def test_the_answer_starts_while_the_upload_goes_on(service: Service, kind: str) -> None:
    file = written(rows(), kind)
    middle = len(file) * 3 // 4
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        head = f"POST /predict/file HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        connection.sendall(_chunk(file[:middle]))
        start = connection.recv(20)
        assert start.startswith(b"HTTP/1.1 200"), start
        connection.sendall(_chunk(file[middle:]) + b"0\r\n\r\n")
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += connection.recv(1 << 16)
    assert b"r9999" in rest


def test_an_error_in_the_middle_leaves_an_answer_that_every_client_sees_is_not_whole(service: Service) -> None:
    lines = HEADER + b"1,2,red\n" * 5000 + b"1,wide,red\n"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("POST", "/predict/file", lines, {"content-type": CSV})
    answer = connection.getresponse()
    assert answer.status == 200
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()
    assert service.ask("/health").status == 200


def test_a_client_that_reads_nothing_before_it_has_sent_all_gets_its_answer_in_bounded_memory(service: Service) -> None:
    process = psutil.Process(service.pid)
    body = HEADER + b"0.123456789,-0.123456789,red\n" * 600_000
    before = process.memory_info().rss
    answer = service.ask("/predict/file", body, {"content-type": CSV})
    assert answer.body.count(b"\n") == 600_001
    assert process.memory_info().rss - before < 60_000_000


def test_a_client_that_goes_away_does_not_hold_its_place(service: Service) -> None:
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            head = "POST /predict/file HTTP/1.1\r\nhost: x\r\ncontent-type: text/csv\r\ncontent-length: 9999999\r\n\r\n"
            connection.sendall(head.encode() + HEADER + b"1,2,red\n" * 5000)
            assert connection.recv(12) == b"HTTP/1.1 200"
    for _ in range(50):
        if service.ask("/predict/file", HEADER, {"content-type": CSV}).status == 200:
            return
    pytest.fail("the places are still taken")


def test_text_that_needs_quotes_passes_through(service: Service) -> None:
    text = 'size,weight,colour,note\n1,2,red,"a ""b"", c\nd"\n,,,\n'
    answer = service.ask(
        "/predict/file", b"\xef\xbb\xbf" + text.replace("\n,,", "\r\n,,").encode(), {"content-type": CSV}
    )
    records = list(csv.reader(io.StringIO(answer.body.decode(), newline="")))
    assert records[0][:4] == ["size", "weight", "colour", "note"]
    assert records[1][3] == 'a "b", c\nd'
    assert records[2][:4] == ["", "", "", ""]


def test_a_service_without_pyarrow_takes_csv_and_says_why_it_takes_nothing_else(
    small_bundle: Path, tmp_path: Path
) -> None:
    home = lay_out(tmp_path / "home", small_bundle)
    (home / "pyarrow.py").write_text("raise ImportError\n", encoding="utf-8")
    with running(home, tmp_path) as service:
        answer = service.ask("/predict/file", b"PAR1", {"content-type": PARQUET})
        assert (answer.status, "not installed here; send CSV" in str(answer.body)) == (415, True)
        assert service.ask("/predict/file", HEADER, {"content-type": CSV}).status == 200


def test_a_file_needs_the_key_where_predictions_do(small_bundle: Path, tmp_path: Path) -> None:
    home = lay_out(tmp_path / "home", small_bundle)
    with running(home, tmp_path, PINWERK_API_KEY="secret") as service:
        assert service.ask("/predict/file", HEADER, {"content-type": CSV}).status == 401
        said: Any = {"content-type": CSV, "x-api-key": "secret"}
        assert service.ask("/predict/file", HEADER, said).status == 200
