"""Files and folders that are either whole or not there."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import ModelError, PinwerkError

# what the stages leave to each other, as dvc.yaml has it
RAW = Path("data/raw")
QUERY = Path("data/query.sql")
PREPARED = Path("data/prepared")
REPORTS = Path("data/reports")

OLD = ".old"  # after a draft's name: what it is about to replace


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh folder to write into; it takes the place of `path` only when the block ends without an error.

    What a killed run left beside `path` is cleared first: its draft removed, the old folder put back where it was
    killed between the two renames. Raises PinwerkError for every error of the system, also one of what the block reads;
    what was there is kept.
    """
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_remains(path)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise PinwerkError(f"{path}: could not be written ({_why(error)})") from None
    old = draft.with_name(draft.name + OLD)
    try:
        lock = _locked(draft)  # held until this process ends, however it ends
        yield draft
        draft.chmod(0o755)
        if path.exists():
            path.rename(old)
        draft.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise PinwerkError(_told(error, path, (path, draft, old))) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _told(error: OSError, path: Path, ours: Sequence[Path]) -> str:
    """An error of the system while `path` was written. It may be of another file, which the block read."""
    for name in (error.filename, error.filename2):
        if isinstance(name, (str, bytes)) and not any(_within(Path(os.fsdecode(name)), one) for one in ours):
            return f"{os.fsdecode(name)}: {_why(error)}; {path} is kept as it was"
    return f"{path}: could not be written ({_why(error)}); what was there is kept"


def _within(file: Path, folder: Path) -> bool:
    return file.absolute().is_relative_to(folder.absolute())


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _clear_remains(path: Path) -> None:
    """Put back or remove what `replacing` left beside `path` in a process that is no more."""
    for folder in sorted(path.parent.glob(f".{path.name}-????????*")):
        try:
            lock = _locked(folder)
        except BlockingIOError:
            continue  # somebody is writing it
        try:
            if folder.name.endswith(OLD) and not path.exists():
                folder.rename(path)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, until the block or the process ends. Raises BlockingIOError where another process holds it."""
    lock = _locked(folder)
    try:
        yield
    finally:
        os.close(lock)


def _locked(folder: Path) -> int:
    """A lock on a folder that goes with the process; BlockingIOError where another holds it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the bundle. Raises ModelError where it is missing or damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path}: there is no such file; `dvc repro` trains a model, `dvc checkout` restores one"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: damaged ({error}); `dvc checkout` restores it") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected an object; `dvc checkout` restores it")
    return tree


def write_json(path: Path, tree: Any) -> None:
    """Write JSON with the same bytes for the same content, every digit kept."""
    path.write_text(_json(tree), encoding="utf-8")


def report_text(tree: Any) -> str:
    """A report as JSON for others to read: ten digits (those beyond vary with the number of threads), and null for
    infinity and NaN, which JSON does not have."""
    return _json(_rounded(tree))


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return value


def write_atomically(path: Path, text: str) -> bool:
    """Replace a file in one step; False, and nothing touched, where it says the same already.

    Raises PinwerkError for a full disk and the like; what was there is kept.
    """
    if path.exists() and path.read_bytes() == text.encode():
        return False
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise PinwerkError(f"{path}: could not be written ({_why(error)}); what was there is kept") from None
    return True
