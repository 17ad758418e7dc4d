"""Bundles by md5: fetched from the workspace, DVC's cache or a remote, verified, kept in folders that never change."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath

from stages.bundle import MODEL, bundle_md5
from stages.errors import ConfigError, ModelError, PinwerkError
from stages.files import replacing
from stages.remotes import Folder, Place, UnreadableError, caches, chunks_of, remotes

log = logging.getLogger("pinwerk.store")

KEPT = Path("data/.bundles")
LISTING = ".listing"
OLDER = 5  # bundles that are kept though nobody uses them any more


def find_bundle(md5: str) -> Path:
    """The folder of the bundle with this md5, a verified copy that nobody writes to, from wherever it is to be had.

    Raises ModelError, which names every place that was tried.
    """
    return _ours.bundle(md5)


class Store:
    """The bundles that this process uses. Safe with other processes on the same folder; for one thread at a time.

    kept: the folder of the copies. named: the remotes to look in, DVC's default one where there is none. baked: a
    bundle in an image, which is used where it lies.
    """

    def __init__(self, kept: Path = KEPT, named: tuple[str, ...] = (), baked: Path | None = None) -> None:
        self.kept, self.named, self.baked = kept, named, baked
        self._held: dict[str, int] = {}  # locks on the folders that are verified and in use, by md5

    def bundle(self, md5: str) -> Path:
        """The folder of a bundle. Raises ModelError where no place has it undamaged, PinwerkError for a full disk."""
        digest = md5.removesuffix(".dir")
        if not re.fullmatch(r"[0-9a-f]{32}", digest):
            raise ModelError(f"{md5!r} is no md5 of a bundle; expected 32 hexadecimal digits and .dir")
        if self.baked is not None and bundle_md5(self.baked) == f"{digest}.dir":
            return self.baked
        target = self.kept / digest
        if digest in self._held and target.is_dir():
            return target
        if not self._hold(digest):
            with _alone(self.kept, digest):
                if not self._hold(digest):
                    _clear_drafts(self.kept, digest)
                    self._fetch(digest, target)
                    if not self._hold(digest):
                        raise ModelError(f"{target}: was removed or damaged as soon as it was written")
        return target

    def prune(self, live: set[str]) -> None:
        """Let go of all bundles but these, and remove the oldest that no process uses. What cannot be removed stays."""
        for digest in set(self._held) - {md5.removesuffix(".dir") for md5 in live}:
            os.close(self._held.pop(digest))
        with suppress(OSError):
            folders = [path for path in self.kept.iterdir() if not path.name.startswith(".") and path.is_dir()]
            for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[OLDER:]:
                _remove_unused(folder)

    def _hold(self, digest: str) -> bool:
        """Verify the kept folder and keep others from removing it; False where it is not there or damaged."""
        target = self.kept / digest
        try:
            lock = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return False
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            whole = bundle_md5(target) == f"{digest}.dir" and _is_at(lock, target)
        except (OSError, ModelError):  # removed while we read
            whole = False
        if not whole:
            os.close(lock)
            return False
        with suppress(OSError):  # so that it counts as recent; a folder that is not ours does not
            os.utime(target)
        earlier = self._held.pop(digest, None)
        if earlier is not None:
            os.close(earlier)
        self._held[digest] = lock
        return True

    def _fetch(self, digest: str, target: Path) -> None:
        told = [f"{target} is damaged, its md5 is {bundle_md5(target)}"] if target.is_dir() else []
        with replacing(target) as draft:
            if not _copied_from_workspace(digest, draft):
                try:
                    errand = _Errand(digest, [*caches(), *remotes(self.named)], told)
                except ConfigError as error:
                    raise ModelError(f"the model {digest}.dir: {error}") from None
                errand.fetch(draft)
        for problem in told:
            log.warning("%s; another copy is used", problem)


_ours = Store()


class _Errand:
    """One bundle from many places, each object from the first that has it undamaged."""

    def __init__(self, digest: str, places: list[Place], told: list[str]) -> None:
        self.digest = digest
        self.places = places
        self.told = told  # what is wrong somewhere

    def fetch(self, draft: Path) -> None:
        """Fill an empty folder. Raises ModelError."""
        listing = draft / LISTING
        self._object(f"{self.digest}.dir", listing)
        for md5, relpath in _entries(listing.read_bytes(), self.digest):
            path = draft / relpath
            path.parent.mkdir(parents=True, exist_ok=True)
            self._object(md5, path, str(relpath))
        listing.unlink()
        found = bundle_md5(draft)
        if found != f"{self.digest}.dir":
            raise ModelError(f"{draft}: its md5 is {found}, expected {self.digest}.dir; is the disk sound?")

    def _object(self, md5: str, target: Path, name: str = "its listing") -> None:
        missing = []
        for place in list(self.places):
            shown = place.shown(md5)
            try:
                found = _copied(place.chunks(md5), target)
            except FileNotFoundError:
                missing.append(f"{shown} is not there")
                continue
            except UnreadableError as error:
                self.places.remove(place)  # it would keep us waiting for each file
                self.told.append(f"{shown} cannot be read ({error})")
                continue
            expected = md5.removesuffix(".dir")
            if found == expected:
                return
            step = (
                "remove it and `dvc pull`" if isinstance(place, Folder) else "`dvc push` a whole one after removing it"
            )
            self.told.append(f"{shown}: its md5 is {found}, expected {expected}; {step}")
        target.unlink(missing_ok=True)
        here = f"{MODEL} is another model" if MODEL.is_dir() else f"{MODEL} is not there"
        said = "; ".join([*self.told, here, *missing])
        raise ModelError(
            f"the model {self.digest}.dir is nowhere to be had, {name} is missing: {said}. "
            "`dvc pull` brings it, or `dvc push` where it was made"
        )


def _copied(chunks: Iterator[bytes], target: Path) -> str:
    """Write chunks to a file; their md5."""
    md5 = hashlib.md5(usedforsecurity=False)
    with target.open("wb") as file:
        for chunk in chunks:
            md5.update(chunk)
            file.write(chunk)
    return md5.hexdigest()


def _copied_from_workspace(digest: str, draft: Path) -> bool:
    """Whether data/model is this bundle, and the draft now a copy of it. A stage may be writing there."""
    try:
        if bundle_md5(MODEL) != f"{digest}.dir":
            return False
        for path in (path for path in MODEL.rglob("*") if path.is_file()):
            target = draft / path.relative_to(MODEL)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copied(chunks_of(path), target)
    except (FileNotFoundError, UnreadableError, ModelError):
        pass
    if bundle_md5(draft) == f"{digest}.dir":
        return True
    for path in draft.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return False


def _entries(listing: bytes, digest: str) -> list[tuple[str, PurePosixPath]]:
    """The md5 and the path of each file; none leaves the folder."""
    try:
        entries = [(str(entry["md5"]), str(entry["relpath"])) for entry in json.loads(listing)]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the object {digest}.dir is no listing of DVC's ({error}); is this md5 that of a model?"
        ) from None
    paths = [(md5, PurePosixPath(relpath)) for md5, relpath in entries]
    for _, path in paths:
        if path.is_absolute() or not path.parts or ".." in path.parts or path == PurePosixPath(LISTING):
            raise ModelError(
                f"the listing {digest}.dir names {str(path)!r}, which is not in its folder; it is not used"
            )
    return paths


def _remove_unused(folder: Path) -> None:
    """Move a kept bundle out of the way and remove it, unless a process holds it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = folder.with_name(f".{folder.name}-gone")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


@contextmanager
def _alone(kept: Path, digest: str, wait: bool = True) -> Iterator[None]:
    """No other process fetches this bundle meanwhile. Raises BlockingIOError where one does and we do not wait."""
    path = kept / f".{digest}.lock"
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    lock = -1
    try:
        kept.mkdir(parents=True, exist_ok=True)
        while lock < 0 or not _is_at(lock, path):  # who had it before us has removed the file
            if lock >= 0:
                os.close(lock)
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(lock, how)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError as error:
        said = f"{kept}: cannot be written ({error.strerror})"
        raise PinwerkError(f"{said}; allow it, or let PINWERK_STORE name another folder") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _clear_drafts(kept: Path, digest: str) -> None:
    """Remove what killed processes left of other bundles; `replacing` sees to that of this one."""
    for folder in kept.glob(".*-*"):
        other = folder.name[1:].partition("-")[0]
        if other != digest or folder.name.endswith("-gone"):
            with suppress(OSError), _alone(kept, other, wait=False) if other != digest else nullcontext():
                shutil.rmtree(folder, ignore_errors=True)
