"""`python -m serve.score IN OUT`: a file scored with the pinned model, by the code that answers /predict/file.

CSV (.csv), Parquet (.parquet, .pq) or Arrow IPC stream (.arrows), told by the ending; OUT has the format of IN. OUT is
there only when it is whole. Exit code 0, 1 for an error in the files or the model, 2 for one in the command.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from serve.formats import ARROW, CSV, FORMATS, PARQUET
from serve.formats.arrow import rows_of_parquet
from serve.pins import CHAMPION, LockFile, pointer
from serve.protocols import BadInputError
from serve.runtime import Answers, Predictor, load
from serve.settings import Settings, read_settings
from stages.bundle import Rows
from stages.errors import ConfigError, DataError, ModelError, run_stage
from stages.store import Store

ENDINGS = {".csv": CSV, ".parquet": PARQUET, ".pq": PARQUET, ".arrows": ARROW}
PLAIN = 30.0  # seconds between two lines where there is no terminal


def main() -> None:
    arguments = parsed(sys.argv[1:])
    predictor = found(arguments.md5, arguments.lock, read_settings())
    rows, seconds = score(arguments.input, arguments.output, predictor)
    print(f"score: {arguments.output}: {rows:,} rows by {predictor.md5} in {seconds:,.1f} s")


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m serve.score", description="Score a file with the pinned model.")
    parser.add_argument("input", metavar="IN", type=Path, help="the rows: .csv, .parquet or .arrows (an IPC stream)")
    parser.add_argument("output", metavar="OUT", type=Path, help="the rows with their answers, in the same format")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--md5", help="the model with this md5 instead of what is served")
    which.add_argument("--lock", type=Path, help="the lock file that pins the model")
    return parser.parse_args(words)


def found(md5: str | None, lock: Path | None, settings: Settings) -> Predictor:
    """The model of an md5, that of a lock file, or else the champion. Raises ModelError where it is not to be had."""
    if md5 is not None:
        md5 = f"{md5.removesuffix('.dir')}.dir"
    else:
        source = pointer(settings) if lock is None else LockFile(lock)
        md5 = source.md5(CHAMPION)
        if md5 is None:
            raise ModelError(f"{source}: points to no {CHAMPION}")
    return load(Store(settings.store, settings.remotes, settings.bundle).bundle(md5), md5)


def score(source: Path, target: Path, predictor: Predictor) -> tuple[int, float]:
    """Write the rows of a file with their answers. How many they were, and the seconds that it took.

    Raises PinwerkError or OSError; what was at the target is kept then.
    """
    kind = _kind(source, target)
    if not target.parent.is_dir():
        raise DataError(f"{target.parent}: there is no such folder; make it and run it again")
    started, count = time.perf_counter(), 0
    try:
        with source.open("rb") as file, _whole(target) as out, _progress(source, kind) as show:

            def tell(rows: Rows, _: Answers) -> None:
                nonlocal count
                count += len(rows)
                show(count, count if kind == PARQUET else file.tell())

            for chunk in FORMATS[kind](file, predictor, tell):
                out.write(chunk)
    except BadInputError as error:
        raise DataError(f"{source}: {error}") from None
    return count, time.perf_counter() - started


def _kind(source: Path, target: Path) -> str:
    for path in (source, target):
        if path.suffix.lower() not in ENDINGS:
            ending = path.suffix or "a name without an ending"
            raise ConfigError(f"{path}: cannot tell the format of {ending}; expected one of {', '.join(ENDINGS)}")
    kinds = [ENDINGS[path.suffix.lower()] for path in (source, target)]
    if kinds[0] != kinds[1]:
        raise ConfigError(f"{target}: the answer has the format of {source.name}; let its name end in {source.suffix}")
    return kinds[0]


@contextmanager
def _whole(target: Path) -> Iterator[BinaryIO]:
    """A draft beside the target that takes its place when the block ends without an error."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as out:
            yield out
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _progress(source: Path, kind: str) -> Iterator[Callable[[int, int], None]]:
    """show(rows, done): a bar on a terminal, now and then a line elsewhere. done: rows of Parquet, bytes of others."""
    total, last = _total(source, kind), time.perf_counter()

    def line(rows: int, done: int) -> None:
        nonlocal last
        if time.perf_counter() - last >= PLAIN:
            print(f"score: {rows:,} rows, {done / max(total, 1):.0%}", file=sys.stderr, flush=True)
            last = time.perf_counter()

    tqdm = _tqdm() if sys.stderr.isatty() else None
    if tqdm is None:
        yield line
        return
    with tqdm(total=total, unit=" rows" if kind == PARQUET else "B", unit_scale=True, desc="score") as bar:

        def move(rows: int, done: int) -> None:
            bar.set_postfix_str("" if kind == PARQUET else f"{rows:,} rows", refresh=False)
            bar.update(done - bar.n)

        yield move


def _tqdm() -> Any:
    """The bar; None where serving is installed without it."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


def _total(source: Path, kind: str) -> int:
    if kind != PARQUET:
        return source.stat().st_size
    with source.open("rb") as file:
        return rows_of_parquet(file)


if __name__ == "__main__":
    run_stage(main)
