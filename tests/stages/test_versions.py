"""The versions that a model comes from: pinned, compared, told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn

from stages.errors import ConfigError
from stages.versions import VERSIONS, differing, pin, pinned, versions
from tests.conftest import pretend


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_installed_is_what_is_pinned() -> None:
    pin()
    assert pinned() == versions()
    assert (versions()["scikit-learn"], versions()["numpy"]) == (sklearn.__version__, np.__version__)
    before = VERSIONS.stat().st_mtime_ns
    pin()
    assert VERSIONS.stat().st_mtime_ns == before


def test_another_version_than_the_pinned_one_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin()
    monkeypatch.syspath_prepend(pretend(here / "site", "scikit-learn", "9.9"))
    expected = rf"versions.json: scikit-learn {sklearn.__version__} \(here 9\.9\); `dvc repro -f configure`"
    with pytest.raises(ConfigError, match=expected):
        pinned()
    pin()
    assert pinned()["scikit-learn"] == "9.9"


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_file_that_cannot_be_read_names_the_command_that_writes_it(text: str | None) -> None:
    if text is not None:
        VERSIONS.parent.mkdir()
        VERSIONS.write_text(text)
    with pytest.raises(ConfigError, match=r"versions.json: cannot be read .*`dvc repro -f configure` writes it"):
        pinned()


def test_only_versions_that_are_apart_are_named() -> None:
    assert differing({"a": "1"}, {"a": "1"}) == ""
    assert differing({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == "b 2 (here none), c none (here 3)"
