"""What a person reads when a stage fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.errors import DataError, run_stage


def fails(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("a.csv: no rows"), "error: a.csv: no rows"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: No space left on device; make room on the disk and run it again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "data/a"),
            "error: data/a: Permission denied; allow this user to, and run it again",
        ),
        (OSError("odd"), "error: odd; PINWERK_DEBUG=1 shows where in the program it happened"),
        (
            OSError(errno.EIO, "x", 5),
            "error: Input/output error; PINWERK_DEBUG=1 shows where in the program it happened",
        ),
    ],
)
def test_an_error_is_one_line_with_a_next_step(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PINWERK_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        run_stage(fails(error))
    assert ended.value.code == 1
    assert capsys.readouterr().err == said + "\n"


def test_the_whole_error_is_shown_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINWERK_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        run_stage(lambda: Path("no/such/file").write_text(""))  # type: ignore[arg-type,return-value]


def test_an_error_of_the_program_itself_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(fails(ZeroDivisionError()))
