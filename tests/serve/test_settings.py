"""What the environment and params.yaml say to the service."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serve.settings import read_settings
from stages.errors import ConfigError
from tests.conftest import ROOT


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


def change(params: Path, **sections: object) -> None:
    tree = yaml.safe_load(params.read_text())
    params.write_text(yaml.safe_dump({**tree, **sections}))


def test_with_nothing_set_the_workspace_s_lock_file_is_served(params: Path) -> None:
    settings = read_settings({}, params)
    assert (settings.lock, settings.store) == (Path("dvc.lock"), Path("data/.bundles"))
    assert (settings.bundle, settings.remotes) == (None, ())
    assert (settings.admin_token, settings.api_key, settings.log_key) == (None, None, None)
    assert settings.registry == "sqlite:///mlflow.db"
    assert settings.model == yaml.safe_load(params.read_text())["tracking"]["model"]


def test_the_environment_says_what_differs_from_place_to_place(params: Path) -> None:
    given = {
        "PINWERK_PARAMS": str(params),
        "PINWERK_BUNDLE": "/opt/ml/model",
        "PINWERK_LOCK": "/etc/dvc.lock",
        "PINWERK_STORE": "/tmp/bundles",
        "PINWERK_REMOTES": " s3://models/pinwerk  https://host/store ",
        "PINWERK_ADMIN_TOKEN": "",
        "MLFLOW_TRACKING_URI": "http://tracking",
    }
    settings = read_settings(given)
    assert (settings.bundle, settings.lock) == (Path("/opt/ml/model"), Path("/etc/dvc.lock"))
    assert settings.remotes == ("s3://models/pinwerk", "https://host/store")
    assert settings.store == Path("/tmp/bundles")
    assert settings.admin_token is None
    assert settings.registry == "http://tracking"
    assert read_settings({**given, "MLFLOW_REGISTRY_URI": "http://registry"}).registry == "http://registry"


def test_the_registry_is_that_of_the_pipeline_unless_the_environment_says_otherwise(params: Path) -> None:
    change(params, tracking={"uri": "http://host:5000", "model": "churn"})
    assert read_settings({}, params).registry == "http://host:5000"
    assert read_settings({}, params).model == "churn"
    assert read_settings({"MLFLOW_TRACKING_URI": "sqlite:///x.db"}, params).registry == "sqlite:///x.db"


def test_a_secret_is_not_shown(params: Path) -> None:
    given = {"MLFLOW_TRACKING_URI": "http://ann:s3cret@host", "PINWERK_REMOTES": "https://ann:s3cret@host"}
    given |= {f"PINWERK_{name}": "s3cret" for name in ("ADMIN_TOKEN", "API_KEY", "LOG_KEY")}
    assert "s3cret" not in repr(read_settings(given, params))


def test_what_is_wrong_in_params_is_told_with_file_and_key(params: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: there is no such file; `python -m stages.configure`"):
        read_settings({}, tmp_path / "nowhere.yaml")
    tree = yaml.safe_load(params.read_text())
    change(params, serve={**tree["serve"], "pins": {**tree["serve"]["pins"], "every": 0}})
    with pytest.raises(ConfigError, match=r"params.yaml: serve.pins.every: .* greater than 0"):
        read_settings({}, params)
    for text in ("[1]", "a: [", "serve", ""):
        params.write_text(text)
        with pytest.raises(ConfigError, match=r"params.yaml: has no readable `serve`"):
            read_settings({}, params)
