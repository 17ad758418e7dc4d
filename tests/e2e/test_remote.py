"""A DVC remote, local and S3: push, clone elsewhere, pull, and nothing is left to reproduce."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from stages.bundle import bundle_md5
from tests.conftest import Opened, Repository, environment

pytestmark = pytest.mark.slow

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def repo(reproduced: Path, opened: Opened) -> Repository:
    return opened(reproduced)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a server that speaks S3, with an empty bucket `models`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket="models")
    client.close()
    yield url
    server.stop()


def add_remote(repo: Repository, url: str, **options: str) -> None:
    repo.run("dvc", "remote", "add", "--default", "store", url)
    for name, value in {"verify": "true", **options}.items():
        repo.run("dvc", "remote", "modify", "store", name, value)
    repo.commit("a remote")


def cloned(repo: Repository, folder: Path, **env: str) -> Repository:
    """A second person's clone, with a DVC of its own that shares no cache."""
    repo.run("git", "clone", "--quiet", str(repo.path), str(folder / "clone"))
    return Repository(folder / "clone", {**environment(folder / "elsewhere"), **env})


def holds_the_same(repo: Repository, clone: Repository) -> None:
    clone.run("dvc", "pull")
    assert "Running stage" not in clone.run("dvc", "repro")
    assert clone.run("git", "status", "--porcelain") == ""
    for name in ("data/model", "data/prepared"):
        assert bundle_md5(clone.path / name) == bundle_md5(repo.path / name)
    assert clone.json("data/model/provenance.json") == repo.json("data/model/provenance.json")


def test_what_was_pushed_to_a_folder_is_pulled_in_a_clone(repo: Repository, tmp_path: Path) -> None:
    add_remote(repo, str(tmp_path / "store"))
    repo.run("dvc", "push")
    holds_the_same(repo, cloned(repo, tmp_path))


def test_a_damaged_object_in_the_remote_fails_the_pull(repo: Repository, tmp_path: Path) -> None:
    add_remote(repo, str(tmp_path / "store"))
    repo.run("dvc", "push")
    clone = cloned(repo, tmp_path)
    (model,) = (out for out in repo.locked("train")["outs"] if out["path"] == "data/model")
    listing = tmp_path / "store/files/md5" / model["md5"][:2] / model["md5"][2:]
    held = {entry["relpath"]: entry["md5"] for entry in yaml.safe_load(listing.read_text())}["pipeline.skops"]
    damaged = tmp_path / "store/files/md5" / held[:2] / held[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    clone.run("dvc", "pull", fails=True)
    assert not (clone.path / "data/model/pipeline.skops").exists()


def test_what_was_pushed_to_s3_is_pulled_in_a_clone(repo: Repository, tmp_path: Path, s3: str) -> None:
    repo = Repository(repo.path, {**repo.env, **CREDENTIALS})
    add_remote(repo, "s3://models/pinwerk", endpointurl=s3)
    repo.run("dvc", "push")
    assert "nothing" not in repo.read(".dvc/config")
    holds_the_same(repo, cloned(repo, tmp_path, **CREDENTIALS))
    cloned(repo, tmp_path / "stranger").run("dvc", "pull", fails=True)
