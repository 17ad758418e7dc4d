"""What the surroundings say: secrets, places and ports from the environment, the rest from params.yaml's `serve`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stages.errors import ConfigError
from stages.serving import Serve

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Settings:
    """serve is the config; the rest stands in PINWERK_… variables, since it is secret or differs from place to place.

    bundle: a folder baked into an image, served as it is. lock: the lock file that pins. remotes: places with DVC's
    layout, folders, URLs or names in DVC's config, looked through in their order after the local cache; with none DVC's
    default one. store: where verified bundles are kept. registry: MLflow's tracking URI, with a password perhaps.
    model: the name there. Without an admin_token there is no admin route, without an api_key no key is asked for.
    """

    serve: Serve
    bundle: Path | None = None
    lock: Path = Path("dvc.lock")
    remotes: tuple[str, ...] = field(default=(), repr=False)
    store: Path = Path("data/.bundles")
    registry: str = field(default="sqlite:///mlflow.db", repr=False)
    model: str = ""
    admin_token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    log_key: str | None = field(default=None, repr=False)


def read_settings(environment: Mapping[str, str] = os.environ, params: Path = PARAMS) -> Settings:
    """The settings. Raises ConfigError naming the file and the key, or the variable."""
    given = {name: value for name, value in environment.items() if value}
    path = Path(given.get("PINWERK_PARAMS", params))
    serve, tracking = _read(path)
    bundle = given.get("PINWERK_BUNDLE")
    registry = given.get("MLFLOW_REGISTRY_URI") or given.get("MLFLOW_TRACKING_URI") or tracking.get("uri")
    return Settings(
        serve=serve,
        bundle=Path(bundle) if bundle else None,
        lock=Path(given.get("PINWERK_LOCK", "dvc.lock")),
        remotes=tuple(given.get("PINWERK_REMOTES", "").split()),
        store=Path(given.get("PINWERK_STORE", "data/.bundles")),
        registry=registry or Settings.registry,
        model=str(tracking.get("model", "")),
        admin_token=given.get("PINWERK_ADMIN_TOKEN"),
        api_key=given.get("PINWERK_API_KEY"),
        log_key=given.get("PINWERK_LOG_KEY"),
    )


def _read(path: Path) -> tuple[Serve, Mapping[str, Any]]:
    """The two sections of params.yaml that serving needs; `tracking` has been checked by configure."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Serve.model_validate(tree["serve"]), {**tree.get("tracking", {})}
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `python -m stages.configure` writes it") from None
    except ValidationError as error:
        said = "; ".join(f"serve.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {said}; correct conf/serve and run `python -m stages.configure`") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: has no readable `serve` ({error}); run `python -m stages.configure`") from None
