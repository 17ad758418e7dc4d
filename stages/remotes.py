"""Where DVC keeps objects, its cache and its remotes, read without DVC. Nothing is trusted: the store verifies it all.

Which cache and which remotes there are is told by .dvc/config and .dvc/config.local. Credentials come from the
environment alone, never from these files.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser, Error
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from stages.errors import ConfigError

CONNECT, READ = 5.0, 10.0  # seconds that a remote may say nothing
CHUNK = 1_000_000  # bytes
S3 = {"region": "region_name", "ssl_verify": "verify"}  # DVC's names of options, and boto's


class UnreadableError(Exception):
    """A place that gives nothing: it cannot be reached, or refuses."""


class Place(Protocol):
    """Holds objects in DVC's layout, `files/md5/ab/cdef…`, each under its md5 (of a folder's listing "….dir")."""

    def shown(self, md5: str) -> str:
        """The file or URL of an object as messages name it, without a password."""

    def chunks(self, md5: str) -> Iterator[bytes]:
        """The bytes of an object. Raises FileNotFoundError where it is not there, UnreadableError for all else."""


def _path(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


@dataclass(frozen=True)
class Folder:
    """A cache of DVC's, or a remote on a disk."""

    path: Path

    def shown(self, md5: str) -> str:
        return str(self.path / _path(md5))

    def chunks(self, md5: str) -> Iterator[bytes]:
        return chunks_of(self.path / _path(md5))


def chunks_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file. Raises FileNotFoundError where it is not there, UnreadableError for all else."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None


@dataclass(frozen=True)
class Web:
    """A remote that answers GET. A user and a password may stand in the URL; they are sent to its host alone."""

    url: str = field(repr=False)

    def shown(self, md5: str) -> str:
        return f"{self._bare}/{_path(md5)}"

    @property
    def _bare(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    def chunks(self, md5: str) -> Iterator[bytes]:
        request = Request(self.shown(md5), headers={"User-Agent": "pinwerk"})
        who, there, _ = urlsplit(self.url).netloc.rpartition("@")
        if there:  # a redirect does not take it along
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(unquote(who).encode()).decode()}"
            )
        try:
            with urlopen(request, timeout=READ) as reply:
                while chunk := reply.read1(CHUNK):
                    yield chunk
        except HTTPError as error:
            with error:
                if error.code in (404, 410):
                    raise FileNotFoundError(self.shown(md5)) from None
                raise UnreadableError(f"it answers {error.code} {error.reason}") from None
        except Exception as error:  # urllib lets through what sockets, TLS and http.client raise
            raise UnreadableError(_said(error)) from None


@dataclass(frozen=True)
class Bucket:
    """A remote that fsspec reads, such as S3. options: those of DVC's config that say where it is."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    def shown(self, md5: str) -> str:
        return f"{self.url.rstrip('/')}/{_path(md5)}"

    def chunks(self, md5: str) -> Iterator[bytes]:
        try:
            with self._system.open(self.shown(md5), "rb", cache_type="none") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise
        except UnreadableError:
            raise
        except Exception as error:  # whatever the library of a cloud raises
            raise UnreadableError(_said(error)) from None

    @cached_property
    def _system(self) -> Any:
        try:
            import fsspec
        except ImportError:
            raise UnreadableError("install fsspec to read it") from None
        scheme = urlsplit(self.url).scheme
        system = fsspec.filesystem(scheme, use_listings_cache=False, **(self._s3() if scheme == "s3" else {}))
        with suppress(AttributeError):
            system.retries = 2  # s3fs's own, each after a longer wait
        return system

    def _s3(self) -> dict[str, Any]:
        """As s3fs takes them."""
        boto = {name: self.options[key] for key, name in S3.items() if key in self.options}
        verify = {"true": True, "false": False}.get(str(boto.get("verify")).lower())
        given: dict[str, Any] = {
            "profile": self.options.get("profile"),
            "endpoint_url": self.options.get("endpointurl"),
        }
        return {
            **{name: value for name, value in given.items() if value},
            "client_kwargs": boto if verify is None else {**boto, "verify": verify},
            "use_ssl": self.options.get("use_ssl", "true").lower() != "false",
            "anon": self.options.get("allow_anonymous_login", "false").lower() == "true",
            "config_kwargs": {"connect_timeout": CONNECT, "read_timeout": READ, "retries": {"max_attempts": 1}},
        }


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error  # of urllib's error the one inside
    return " ".join(f"{type(reason).__name__}: {reason}".split()) if isinstance(reason, Exception) else str(reason)


def caches() -> list[Place]:
    """DVC's cache; in an experiment's temporary folder also that of the real repository."""
    found = []
    for root in _roots():
        folder = root / ".dvc" / _config(root).get("cache", {}).get("dir", "cache")
        found.append(Folder(Path(os.path.normpath(folder))))
    return list(dict.fromkeys(found))


def remotes(named: Sequence[str] = ()) -> list[Place]:
    """The remotes, each by its URL, folder or name in DVC's config; with none named DVC's default one.

    Raises ConfigError for a config that cannot be read.
    """
    root = _roots()[-1]
    config = _config(root)
    default = config.get("core", {}).get("remote")
    known = {name.split('"')[1]: options for name, options in config.items() if name.startswith('remote "')}
    return [_remote(name, known, root) for name in named or ([default] if default else [])]


def _remote(name: str, known: Mapping[str, Mapping[str, str]], root: Path) -> Place:
    by_url = {options.get("url"): options for options in known.values()}
    options = known.get(name) or by_url.get(name) or {}
    url = options.get("url", name)
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return Web(url)
    if "://" in url and scheme != "file":
        return Bucket(url, {**options})
    folder = unquote(urlsplit(url).path) if scheme == "file" else url
    # in the config a folder is relative to .dvc, on the command line to where we are
    return Folder(Path(os.path.normpath(root / ".dvc" / folder if options else folder)))


def _roots() -> list[Path]:
    root = os.environ.get("DVC_ROOT")
    return [Path(), Path(root)] if root else [Path()]


def _config(root: Path) -> dict[str, dict[str, str]]:
    """DVC's config of a repository, its sections by name; empty where there is none."""
    merged: dict[str, dict[str, str]] = {}
    for path in (root / ".dvc/config", root / ".dvc/config.local"):
        parser = ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=("#",))
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, Error) as error:
            said = " ".join(str(error).split())
            raise ConfigError(f"{path}: cannot be read ({said}); `dvc config --list` shows what is wrong") from None
        for name in parser.sections():
            values = {key: value.strip("\"'") for key, value in parser[name].items()}
            merged[name.strip("'")] = {**merged.get(name.strip("'"), {}), **values}
    return merged
