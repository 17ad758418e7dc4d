from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.drifting.windows import count_windows, write_sample
from stages.errors import DataError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    frame = pd.DataFrame({"x": np.arange(5000.0), "word": [f"w{i % 7}" for i in range(5000)]})
    paths = [tmp_path / "a's.parquet", tmp_path / "b.parquet"]
    frame[:3000].to_parquet(paths[0])
    frame[3000:].to_parquet(paths[1])
    return paths


def test_a_sample_holds_at_most_the_rows_asked_for_and_no_row_twice(files: list[Path], tmp_path: Path) -> None:
    assert write_sample(files, tmp_path / "out.parquet", 500, seed=1) == 500
    kept = pd.read_parquet(tmp_path / "out.parquet")
    assert list(kept.columns) == ["x", "word"]
    assert kept["x"].is_unique
    assert len(kept) == 500


def test_a_sample_covers_all_files_evenly(files: list[Path], tmp_path: Path) -> None:
    write_sample(files, tmp_path / "out.parquet", 1000, seed=1)
    share = (pd.read_parquet(tmp_path / "out.parquet")["x"] < 3000).mean()
    assert 0.55 < share < 0.65


def test_the_same_seed_draws_the_same_rows_wherever_the_files_lie(files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    write_sample(files, tmp_path / "first.parquet", 100, seed=1)
    moved = [file.rename(other / file.name) for file in files]
    write_sample(moved, tmp_path / "second.parquet", 100, seed=1)
    write_sample(moved, tmp_path / "third.parquet", 100, seed=2)
    first, second, third = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("first", "second", "third"))
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(third)


def test_a_sample_larger_than_the_files_is_all_their_rows(files: list[Path], tmp_path: Path) -> None:
    assert write_sample(files, tmp_path / "out.parquet", 10**6, seed=1) == 5000


def test_null_nan_and_the_empty_string_are_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, None, 3.0], "word": ["a", "", None]})
    frame.to_parquet(tmp_path / "old.parquet")
    import duckdb

    duckdb.sql(f"copy (select 'nan'::double as x, 'b' as word) to '{tmp_path / 'new.parquet'}'")
    counts = count_windows([tmp_path / "old.parquet"], [tmp_path / "new.parquet"], ["x"], ["word"])
    assert counts.rows == (3, 1)
    assert counts.missing == {"x": (1, 1), "word": (2, 0)}


def test_categories_are_counted_over_all_rows_and_new_ones_named(files: list[Path], tmp_path: Path) -> None:
    pd.DataFrame({"word": ["w0"] * 6 + ["zz"] * 3 + ["yy"]}).to_parquet(tmp_path / "new.parquet")
    found = count_windows(files, [tmp_path / "new.parquet"], [], ["word"]).categories["word"]
    assert sum(found.reference) == 5000
    assert dict(zip(found.values, found.current, strict=True))["w0"] == 6
    assert found.new == (("zz", 3), ("yy", 1))
    assert (found.new_values, found.new_rows, found.distinct, found.others) == (2, 4, 9, (0, 0))


def test_categories_beyond_the_largest_are_counted_as_others(tmp_path: Path) -> None:
    pd.DataFrame({"word": [f"w{i}" for i in range(1300)] * 2}).to_parquet(tmp_path / "old.parquet")
    found = count_windows([tmp_path / "old.parquet"], [tmp_path / "old.parquet"], [], ["word"]).categories["word"]
    assert len(found.values) == 1000
    assert found.others == (600, 600)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"broken\.parquet.*dvc repro prepare"):
        count_windows([tmp_path / "broken.parquet"], [tmp_path / "broken.parquet"], ["x"], [])
    with pytest.raises(DataError, match=r"broken\.parquet"):
        write_sample([tmp_path / "broken.parquet"], tmp_path / "out.parquet", 10, seed=0)
