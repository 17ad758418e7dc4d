"""A bundle is found by its md5 wherever it is, kept in a folder that nobody writes to, never given out damaged."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from functools import partial
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

import stages.remotes
from stages.bundle import bundle_md5
from stages.errors import ModelError, PinwerkError
from stages.store import OLDER, Store, find_bundle
from tests.conftest import ROOT, environment
from tests.serve.service import web

KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


def dvc(*command: str) -> None:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", *command], check=True, capture_output=True, env=env)


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a real DVC has added data/model and pushed it to the folder `store` beside."""
    folder = tmp_path_factory.mktemp("origin")
    model = folder / "repo/data/model"
    (model / "deep").mkdir(parents=True)
    for name in ("card.md", "signature.json", "pipeline.skops"):
        (model / name).write_text(f"what {name} says\n")
    (model / "deep" / "é.txt").write_text("é\r\n")
    (model / "deep-er.txt").write_text("")
    (model / ".hidden").write_text("x")
    before = Path.cwd()
    os.chdir(folder / "repo")
    try:
        dvc("init", "--no-scm", "--quiet")
        dvc("remote", "add", "--default", "store", "../store")
        dvc("add", "--quiet", "data/model")
        dvc("push", "--quiet")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def md5(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What DVC calls the model. We are in a copy of the repository, with the remote beside it."""
    shutil.copytree(origin, tmp_path / "origin")
    monkeypatch.chdir(tmp_path / "origin/repo")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    found = [line for line in Path("data/model.dvc").read_text().splitlines() if "md5:" in line]
    return found[0].split("md5:")[1].strip()


def at(store: Path | str, md5: str) -> Path:
    """The object in a cache or a remote, which may be written to from now on."""
    path = Path(store) / "files/md5" / md5[:2] / md5[2:]
    if path.exists():
        path.chmod(0o644)
    return path


def object_of(name: str, md5: str, store: Path | str = ".dvc/cache") -> Path:
    """The object of one file of the model."""
    listing = json.loads(at(store, md5).read_bytes())
    return at(store, next(entry["md5"] for entry in listing if entry["relpath"] == name))


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def only_the_remote() -> None:
    shutil.rmtree("data/model")
    shutil.rmtree(".dvc/cache")


def left() -> list[str]:
    """What lies in the folder of kept bundles."""
    return sorted(path.name for path in Path("data/.bundles").iterdir())


# places


def test_a_bundle_s_md5_is_the_one_that_dvc_gives_it_and_the_workspace_the_cache_and_the_remote_give_it_back(
    md5: str,
) -> None:
    whole = bytes_of(Path("data/model"))
    assert bundle_md5(Path("data/model")) == md5
    for gone in (None, "data/model", ".dvc/cache"):
        if gone is not None:
            shutil.rmtree(gone)
        shutil.rmtree("data/.bundles", ignore_errors=True)
        found = find_bundle(md5.removesuffix(".dir"))
        assert bytes_of(found) == whole
        assert bundle_md5(found) == md5
        assert left() == [md5.removesuffix(".dir")]


def test_another_model_in_the_workspace_is_not_taken(md5: str) -> None:
    Path("data/model/card.md").write_text("another")
    assert bundle_md5(find_bundle(md5)) == md5


@pytest.mark.parametrize("file", ["config", "config.local"])
def test_the_cache_is_where_dvc_s_config_says(md5: str, file: str) -> None:
    Path(".dvc/cache").rename("elsewhere")
    shutil.rmtree("data/model")
    shutil.rmtree("../store")
    dvc("cache", "dir", *(["--local"] if file == "config.local" else []), "elsewhere")
    assert "dir = ../elsewhere" in Path(".dvc", file).read_text()
    assert bundle_md5(find_bundle(md5)) == md5


def test_an_experiment_s_folder_finds_it_in_the_real_repository(md5: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path.cwd()
    (root / "exp").mkdir()
    monkeypatch.chdir(root / "exp")
    with pytest.raises(ModelError, match="nowhere to be had"):
        find_bundle(md5)
    monkeypatch.setenv("DVC_ROOT", str(root))
    assert bundle_md5(find_bundle(md5)) == md5
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree("data/.bundles")
    assert bundle_md5(find_bundle(md5)) == md5


def test_a_missing_object_names_every_place_that_was_tried(md5: str) -> None:
    with pytest.raises(ModelError) as told:
        Store(named=("../store", "nowhere")).bundle("0" * 32 + ".dir")
    said = str(told.value)
    path = f"files/md5/00/{'0' * 30}.dir"
    assert "data/model is another model" in said
    for place in (".dvc/cache", "../store", "nowhere"):
        assert f"{place}/{path} is not there" in said
    assert "`dvc pull`" in said
    assert left() == []


def test_what_is_no_md5_is_refused(md5: str) -> None:
    for wrong in ("", "../../etc", "0" * 31, md5.upper()):
        with pytest.raises(ModelError, match="is no md5 of a bundle"):
            find_bundle(wrong)


@pytest.mark.parametrize("name", ["card.md", None])
def test_a_damaged_object_in_the_cache_is_taken_from_the_remote_and_told(
    name: str | None, md5: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree("data/model")
    path = object_of(name, md5) if name else at(".dvc/cache", md5)
    path.write_bytes(path.read_bytes() + b" ")
    with caplog.at_level(logging.WARNING):
        assert bundle_md5(Store().bundle(md5)) == md5
    expected = "".join(path.parts[-2:]).removesuffix(".dir")
    assert re.search(rf"^{path}: its md5 is [0-9a-f]{{32}}, expected {expected}; remove it", caplog.messages[0])


def test_damage_everywhere_names_each_file_and_both_hashes(md5: str) -> None:
    shutil.rmtree("data/model")
    for store in (".dvc/cache", "../store"):
        object_of("card.md", md5, store).write_bytes(b"x")
    wrong, expected = hashlib.md5(b"x").hexdigest(), "".join(object_of("card.md", md5).parts[-2:])
    with pytest.raises(ModelError) as told:
        find_bundle(md5)
    for store in (".dvc/cache", "../store"):
        assert f"{object_of('card.md', md5, store)}: its md5 is {wrong}, expected {expected}; remove it" in str(
            told.value
        )
    assert "card.md is missing" in str(told.value)
    assert left() == []


def test_a_model_half_in_the_cache_and_half_in_the_remote_is_put_together(md5: str) -> None:
    shutil.rmtree("data/model")
    object_of("card.md", md5).unlink()
    object_of("signature.json", md5, "../store").unlink()
    assert bundle_md5(find_bundle(md5)) == md5


@pytest.mark.parametrize("relpath", ["../x.md", "/tmp/x.md", "a/../../x.md", "", ".", ".listing"])
def test_a_listing_that_leaves_its_folder_is_refused(md5: str, relpath: str) -> None:
    content = b"says"
    entries = [{"md5": hashlib.md5(content).hexdigest(), "relpath": relpath}]
    said = json.dumps(entries).encode()
    evil = hashlib.md5(said).hexdigest() + ".dir"
    for name, what in ((entries[0]["md5"], content), (evil, said)):
        at(".dvc/cache", name).parent.mkdir(exist_ok=True)
        at(".dvc/cache", name).write_bytes(what)
    with pytest.raises(ModelError, match="which is not in its folder"):
        find_bundle(evil)
    assert left() == []


def test_an_object_that_is_no_listing_is_refused(md5: str) -> None:
    for content in (b"[1]", b"{}]", b"[[]]", b"\xff"):
        name = hashlib.md5(content).hexdigest() + ".dir"
        at(".dvc/cache", name).parent.mkdir(exist_ok=True)
        at(".dvc/cache", name).write_bytes(content)
        with pytest.raises(ModelError, match="is no listing of DVC's"):
            find_bundle(name)


def test_a_config_of_dvc_that_cannot_be_read_is_told(md5: str) -> None:
    shutil.rmtree("data/model")
    Path(".dvc/config").write_text("[core\n")
    with pytest.raises(ModelError, match=r"\.dvc/config: cannot be read"):
        find_bundle(md5)


# remotes


class Files(http.server.SimpleHTTPRequestHandler):
    """The remote, only for ann."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Basic " + b64encode(b"ann:s3cret").decode():
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Cut(http.server.BaseHTTPRequestHandler):
    """Sends half of what it says that it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 500)

    def log_message(self, *_: object) -> None:
        pass


def test_a_remote_on_the_web_gives_it_to_who_knows_the_password(md5: str) -> None:
    only_the_remote()
    with web(partial(Files, directory="../store")) as address:
        with pytest.raises(ModelError, match=rf"http://{address}/files/md5/.* cannot be read \(it answers 403"):
            Store(named=(f"http://{address}",)).bundle(md5)
        with pytest.raises(ModelError) as told:
            Store(named=(f"http://ann:s3cret@{address}/",)).bundle("0" * 32)
        assert f"http://{address}/files/md5/00/{'0' * 30}.dir is not there" in str(told.value)
        assert "s3cret" not in str(told.value)
        assert bundle_md5(Store(named=(f"http://ann:s3cret@{address}/",)).bundle(md5)) == md5


def test_a_download_cut_short_is_told_with_both_hashes(md5: str) -> None:
    only_the_remote()
    with web(Cut) as address, pytest.raises(ModelError) as told:
        Store(named=(f"http://{address}",)).bundle(md5)
    wrong, expected = hashlib.md5(b"x" * 500).hexdigest(), md5.removesuffix(".dir")
    assert f"http://{address}/files/md5/{md5[:2]}/{md5[2:]}: its md5 is {wrong}, expected {expected}" in str(told.value)
    assert left() == []


def test_a_remote_that_says_nothing_is_given_up_and_the_next_one_asked(
    md5: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only_the_remote()
    monkeypatch.setattr(stages.remotes, "READ", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, caplog.at_level(logging.WARNING):
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert bundle_md5(Store(named=(f"http://{address}", "../store")).bundle(md5)) == md5
    (said,) = caplog.messages  # asked once, not for every file
    assert f"http://{address}/files/md5/{md5[:2]}/{md5[2:]} cannot be read (TimeoutError" in said


@pytest.mark.slow
def test_a_bucket_gives_it_with_the_endpoint_of_dvc_s_config_and_the_keys_of_the_environment(
    md5: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
        client.create_bucket(Bucket="models")
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        dvc("remote", "add", "--force", "--default", "bucket", "s3://models/pinwerk")
        dvc("remote", "modify", "bucket", "endpointurl", f"http://{host}:{port}")
        dvc("push", "--quiet")
        only_the_remote()
        shutil.rmtree("../store")
        with pytest.raises(ModelError, match=r"s3://models/pinwerk/files/md5/00/0*\.dir is not there"):
            find_bundle("0" * 32)
        damaged = f"pinwerk/files/md5/{md5[:2]}/{md5[2:]}"
        listing = client.get_object(Bucket="models", Key=damaged)["Body"].read()
        client.put_object(Bucket="models", Key=damaged, Body=listing[:-1])
        with pytest.raises(
            ModelError, match=rf"s3://models/{damaged}: its md5 is {hashlib.md5(listing[:-1]).hexdigest()}"
        ):
            find_bundle(md5)
        client.put_object(Bucket="models", Key=damaged, Body=listing)
        client.close()
        for named in ((), ("bucket",), ("s3://models/pinwerk",)):
            shutil.rmtree("data/.bundles")
            assert bundle_md5(Store(named=named).bundle(md5)) == md5
        shutil.rmtree("data/.bundles")
    finally:
        server.stop()
    with pytest.raises(ModelError, match=r"s3://models/pinwerk/.* cannot be read"):
        find_bundle(md5)


# the folder of kept bundles


def test_a_kept_bundle_that_was_damaged_is_fetched_again_by_the_next_process(
    md5: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = Store().bundle(md5)
    (found / "card.md").write_text("tampered")
    with caplog.at_level(logging.WARNING):
        assert Store().bundle(md5) == found
    assert bundle_md5(found) == md5
    assert f"{found} is damaged, its md5 is " in caplog.text
    (found / "card.md").write_text("tampered")
    shutil.rmtree("../store")
    shutil.rmtree("data/model")
    shutil.rmtree(".dvc/cache")
    with pytest.raises(ModelError, match=rf"{found} is damaged, its md5 is {bundle_md5(found)}"):
        Store().bundle(md5)


def test_a_baked_in_bundle_is_used_where_it_lies_and_its_md5_is_its_name(md5: str) -> None:
    baked = Path("data/model").rename("baked")
    assert Store(baked=baked).bundle(md5) == baked
    (baked / "card.md").write_text("another")
    assert Store(baked=baked).bundle(bundle_md5(baked)) == baked
    assert not Path("data/.bundles").exists()


def test_fetching_from_a_disk_needs_neither_dvc_nor_git_nor_fsspec(md5: str, tmp_path: Path) -> None:
    only_the_remote()
    code = f"{FETCH}; print({{'dvc', 'fsspec', 'pandas', 'sklearn', 'mlflow'}} & {{*sys.modules}})"
    env = {**environment(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
    said = subprocess.run([sys.executable, "-c", code, md5], env=env, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [f"data/.bundles/{md5[:-4]}", "set()"]


FETCH = "import sys; from stages.store import find_bundle; print(find_bundle(sys.argv[1]))"


def fetching(md5: str, tmp_path: Path) -> subprocess.Popen[str]:
    env = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", FETCH, md5], env=env, stdout=subprocess.PIPE, text=True)


def test_processes_that_fetch_at_once_end_with_the_same_folder_of_which_one_has_brought_it(
    md5: str, tmp_path: Path
) -> None:
    only_the_remote()
    asked: list[str] = []

    class Slow(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.1)  # so that all are there before the first has it
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with web(partial(Slow, directory="../store")) as address:
        Path(".dvc/config").write_text(f"[core]\n    remote = web\n['remote \"web\"']\n    url = http://{address}\n")
        command = [sys.executable, "-c", f"import stages.store; print('ready', flush=True); input(); {FETCH}", md5]
        env = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        racers = [subprocess.Popen(command, env=env, text=True, **pipes) for _ in range(4)]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert said == [f"data/.bundles/{md5[:-4]}"] * 4
    assert len(asked) == len(set(asked)) == 7
    assert bundle_md5(Path("data/.bundles", md5[:-4])) == md5
    assert left() == [md5[:-4]]


def test_what_a_killed_process_left_is_never_seen_and_cleared_by_the_next_fetch(md5: str, tmp_path: Path) -> None:
    only_the_remote()
    other = "0" * 32
    with socket.create_server(("127.0.0.1", 0)) as silent:
        Path(".dvc/config").write_text(
            f"[core]\n    remote = web\n['remote \"web\"']\n    url = http://127.0.0.1:{silent.getsockname()[1]}\n"
        )
        killed = [fetching(name, tmp_path) for name in (md5, other)]
        asking = [silent.accept()[0] for _ in killed]  # both wait for an answer now
        for process in killed:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        for connection in asking:
            connection.close()
    assert len([name for name in left() if "-" in name]) == 2
    assert not Path("data/.bundles", md5[:-4]).exists()
    assert bundle_md5(Store(named=("../store",)).bundle(md5)) == md5
    assert left() == [md5[:-4]]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(md5: str, tmp_path: Path) -> None:
    big = Path("data/model/pipeline.skops")
    big.write_bytes(b"x" * 1_000_000)
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); {FETCH}"
    env = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", limited, bundle_md5(Path("data/model"))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "could not be written (File too large)" in done.stderr.splitlines()[-1]
    assert left() == []


def test_a_folder_that_cannot_be_written_is_told(md5: str) -> None:
    Path("file").write_text("in the way")
    with pytest.raises(PinwerkError, match=r"file/kept: cannot be written .*PINWERK_STORE"):
        Store(Path("file/kept")).bundle(md5)


def test_the_newest_bundles_are_kept_and_of_the_older_ones_those_that_somebody_uses(md5: str) -> None:
    used, unused = Store(), Store()
    folders = []
    for number in range(OLDER + 3):
        Path("data/model/card.md").write_text(str(number))
        name = bundle_md5(Path("data/model"))
        folders.append((used if number == 1 else unused).bundle(name))
        os.utime(folders[-1], (number, number))
    unused.prune({f"{folders[0].name}.dir"})
    assert [folder.exists() for folder in folders] == [True, True, False, *[True] * OLDER]
    assert len(left()) == OLDER + 2
    used.prune(set())
    assert [folder.exists() for folder in folders[:2]] == [True, False]
