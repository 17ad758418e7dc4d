"""Which bundle is which variant: the md5 that dvc.lock pins for data/model, or that MLflow keeps as a tag."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from serve.registry import Registry, registry
from serve.settings import Settings
from stages.bundle import bundle_md5
from stages.errors import ModelError

OUT = "data/model"
CHAMPION, CHALLENGER = "champion", "challenger"
GIT_SECONDS = 5.0
SETTLED = 2.0  # seconds after which a change shows in a file's time, however coarse the file system's clock


class Pointer(Protocol):
    """Where it is written which bundle is which variant. A look is cheap; it is taken about each second."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that it points to."""

    def md5(self, variant: str) -> str | None:
        """The md5 ("….dir") of a variant, None where there is no such variant at present.

        Raises ModelError where that cannot be told.
        """


def pointer(settings: Settings) -> Pointer:
    """Where the settings say that it is written. A bundle that is baked in is the champion, whatever else is set."""
    pins = settings.serve.pins
    if settings.bundle is not None:
        return Baked(settings.bundle)
    if pins.source == "lock":
        return LockFile(settings.lock)
    named = {CHAMPION: pins.champion, CHALLENGER: pins.challenger}
    given = {variant: name for variant, name in named.items() if name is not None}
    if pins.source == "git":
        return Revisions(settings.lock, given)
    return Aliases(registry(settings.registry), settings.model, given)


@dataclass
class Baked:
    """A bundle in an image. Its md5 is computed, and is its name."""

    path: Path
    variants: tuple[str, ...] = (CHAMPION,)
    _md5: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    def md5(self, variant: str) -> str:  # noqa: ARG002
        if self._md5 is None:
            self._md5 = bundle_md5(self.path)
        return self._md5


class LockFile:
    """The workspace's dvc.lock: its model is the champion. Read again only when the file has changed."""

    variants = (CHAMPION,)

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], str] | None = None  # which file, and what it pinned

    def __str__(self) -> str:
        return str(self.path)

    def md5(self, variant: str) -> str:  # noqa: ARG002
        try:
            found = self.path.stat()
        except OSError:
            return pinned(self.path)  # which says what is wrong
        which = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._read is not None and self._read[0] == which:
            return self._read[1]
        md5 = pinned(self.path)
        # a second change within one tick of the file system's clock looks like none
        self._read = (which, md5) if time.time() - found.st_mtime > SETTLED else None
        return md5


class Revisions:
    """The lock file at revisions of its Git repository: branches, tags, commits or experiments of DVC, by variant."""

    def __init__(self, lock: Path, named: dict[str, str]) -> None:
        self.lock, self.named = lock, named
        self.variants = tuple(named)
        self._read: dict[str, str] = {}  # what the lock file pins, by commit

    def __str__(self) -> str:
        return f"{self.lock} at {', '.join(self.named.values())}"

    def md5(self, variant: str) -> str:
        name = self.named[variant]
        commit = self._commit(name)
        if commit not in self._read:
            found = self._git("show", "--end-of-options", f"{commit}:./{self.lock.name}")
            if found is None:
                raise ModelError(f"the revision {name} ({commit[:10]}) has no {self.lock}; commit it there")
            self._read[commit] = pinned_by(found, f"{self.lock} at {name} ({commit[:10]})")
        return self._read[commit]

    def _commit(self, name: str) -> str:
        """The commit of a revision, or of the experiment of DVC that has this name."""
        found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if found is None:
            refs = (self._git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or "").splitlines()
            commits = {
                ref.split()[0] for ref in refs if re.fullmatch(rf"\S+ refs/exps/../[^/]+/{re.escape(name)}", ref)
            }
            if len(commits) > 1:
                raise ModelError(
                    f"serve.pins: {len(commits)} experiments have the name {name!r}; give its whole refs/exps/…"
                )
            if not commits:
                raise ModelError(
                    f"serve.pins: {name!r} is no revision and no experiment of this repository; `git fetch` brings it"
                )
            (found,) = commits
        return found.strip()

    def _git(self, *words: str) -> str | None:
        """What Git prints; None where it knows no such thing. Raises ModelError where it cannot be asked."""
        env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        command = ["git", "-C", str(self.lock.parent), *words]
        try:
            done = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS, check=False
            )
        except FileNotFoundError:
            raise ModelError("serve.pins.source is git, but Git is not installed; use lock or registry") from None
        except subprocess.TimeoutExpired:
            raise ModelError(f"`git {words[0]}` did not end within {GIT_SECONDS:g} s") from None
        said = " ".join(done.stderr.decode(errors="replace").split())
        if done.returncode and ("not a git repository" in said or "dubious ownership" in said):
            raise ModelError(f"{self.lock.parent.absolute()}: {said}")
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None


class Aliases:
    """Aliases of a registered model in MLflow, by variant. The version that one points to carries the md5 as a tag."""

    def __init__(self, registry: Registry, model: str, named: dict[str, str]) -> None:
        self.registry, self.model, self.named = registry, model, named
        self.variants = tuple(named)

    def __str__(self) -> str:
        return f"{self.registry} {self.model}@{', @'.join(self.named.values())}"

    def md5(self, variant: str) -> str | None:
        alias = self.named[variant]
        found = self.registry.version(self.model, alias)
        if found is None:
            if variant != CHAMPION:
                return None  # dropped, or not yet there
            raise ModelError(f"{self.registry}: {self.model} has no alias {alias!r}; set it on a version")
        version, md5 = found
        if md5 is None or not is_md5(md5):
            raise ModelError(
                f"{self.registry}: version {version} of {self.model} has the tag md5 {md5!r}, expected the md5 of a "
                "bundle; `dvc repro record` registers models with it"
            )
        return md5


def is_md5(text: str) -> bool:
    """Whether this names a bundle as DVC does."""
    return re.fullmatch(r"[0-9a-f]{32}\.dir", text) is not None


def pinned(lock: Path) -> str:
    """The md5 ("….dir") of the model that the lock file pins. Raises ModelError where it pins none."""
    try:
        return pinned_by(lock.read_text(encoding="utf-8"), str(lock))
    except FileNotFoundError:
        raise ModelError(f"{lock}: there is no such file; `dvc repro` trains a model and pins it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{lock}: cannot be read ({error}); `git checkout {lock}` restores it") from None


def pinned_by(text: str, name: str) -> str:
    """The same of the text of a lock file; name: what messages call it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        tree = yaml.load(text, loader)
        outs = [out for stage in tree["stages"].values() for out in stage.get("outs", ())]
        md5 = next(str(out["md5"]) for out in outs if out["path"] == OUT)
    except StopIteration:
        raise ModelError(f"{name}: pins no {OUT}; run `dvc repro train`") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise ModelError(f"{name}: not a lock file of DVC ({said}); `git checkout` restores it") from None
    if not is_md5(md5):
        raise ModelError(f"{name}: the md5 of {OUT} is {md5!r}, expected 32 hexadecimal digits and .dir")
    return md5
