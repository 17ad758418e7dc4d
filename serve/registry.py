"""MLflow's model registry, asked without MLflow: a server by REST, the embedded store by SQL."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

from stages.errors import ConfigError, ModelError

SECONDS = 2.0  # that a server may say nothing
LARGEST = 1_000_000  # bytes of an answer
MD5 = "md5"  # the tag that stages.tracking gives a version
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Registry(Protocol):
    """Knows which version of a model an alias points to."""

    def version(self, model: str, alias: str) -> tuple[str, str | None] | None:
        """The version and its tag md5; None where the model has no such alias. Raises ModelError for all else."""


def registry(uri: str) -> Registry:
    """The registry at a tracking URI of MLflow's. Raises ConfigError for one that we cannot ask."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        return Server(uri)
    if uri.startswith("sqlite:///"):
        return Embedded(Path(unquote(uri.removeprefix("sqlite:///"))))
    raise ConfigError(
        f"MLFLOW_TRACKING_URI: serve asks registries at http://, https:// and sqlite:///, not {scheme or 'a folder'}"
    )


class Embedded:
    """The SQLite file that the pipeline writes its record to; it is only read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def version(self, model: str, alias: str) -> tuple[str, str | None] | None:
        query = """select a.version, t.value from registered_model_aliases a left join model_version_tags t
                   on t.name = a.name and t.version = a.version and t.key = ? where a.name = ? and a.alias = ?"""
        if not self.path.is_file():
            raise ModelError(
                f"{self.path}: there is no such file; `dvc repro` makes it, MLFLOW_TRACKING_URI names another"
            )
        try:
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as db:
                found = db.execute(query, (MD5, model, alias)).fetchone()
        except sqlite3.Error as error:
            raise ModelError(f"{self.path}: cannot be read ({error})") from None
        return None if found is None else (str(found[0]), found[1])


class Server:
    """A tracking server. User and password, or a token, come from MLflow's own variables, or stand in the URI."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        who, _, host = parts.netloc.rpartition("@")
        self.url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._authorization = _authorization(unquote(who))

    def __str__(self) -> str:
        return self.url

    def version(self, model: str, alias: str) -> tuple[str, str | None] | None:
        asked = urlencode({"name": model, "alias": alias})
        answer = self._get(f"{self.url}/api/2.0/mlflow/registered-models/alias?{asked}")
        if answer is None:
            return None
        try:
            found = answer["model_version"]
            tags = {str(tag["key"]): str(tag["value"]) for tag in found.get("tags", ())}
            return str(found["version"]), tags.get(MD5)
        except (TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{self.url}: does not answer as MLflow does ({error!r})") from None

    def _get(self, url: str) -> Any:
        request = Request(url, headers={"User-Agent": "pinwerk"})
        if self._authorization is not None:
            request.add_unredirected_header("Authorization", self._authorization)  # a redirect does not take it along
        try:
            with urlopen(request, timeout=SECONDS) as reply:
                return json.loads(_whole(reply))
        except HTTPError as error:
            with error:
                if _absent(error):
                    return None
                raise ModelError(f"{self.url}: answers {error.code} {error.reason}") from None
        except TimeoutError:
            raise ModelError(f"{self.url}: did not answer within {SECONDS:g} s") from None
        except ValueError:
            raise ModelError(f"{self.url}: does not answer as MLflow does (no JSON)") from None
        except Exception as error:  # urllib lets through what sockets, TLS and http.client raise
            raise ModelError(f"{self.url}: cannot be reached ({getattr(error, 'reason', None) or error!r})") from None


def _whole(reply: Any) -> bytes:
    """The body, unless it is long or comes drop by drop."""
    body, last = bytearray(), time.monotonic() + SECONDS
    while chunk := reply.read1(65536):
        body += chunk
        if len(body) > LARGEST:
            raise ValueError
        if time.monotonic() > last:
            raise TimeoutError
    return bytes(body)


def _absent(error: HTTPError) -> bool:
    """Whether MLflow says that there is no such model or alias."""
    try:
        said = json.loads(_whole(error))
        return said["error_code"] in ABSENT and "not found" in said["message"]
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _authorization(who: str) -> str | None:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        who = f"{user}:{password}"
    elif token:
        return f"Bearer {token}"
    return f"Basic {base64.b64encode(who.encode()).decode()}" if who else None
