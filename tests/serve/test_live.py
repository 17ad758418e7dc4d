"""A pointer that moves swaps the model; whatever goes wrong on the way, the last good one goes on answering."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from serve.live import Live
from serve.settings import Settings, read_settings
from stages.bundle import bundle_md5
from stages.errors import ModelError
from tests.serve.load import load
from tests.serve.service import Workspace, copied, serving, web

SECONDS = float(os.environ.get("PINWERK_LOAD_SECONDS", "10"))
CONNECTIONS = int(os.environ.get("PINWERK_LOAD_CONNECTIONS", "16"))


@pytest.fixture
def space(two_models: Workspace, tmp_path: Path) -> Workspace:
    return copied(two_models, tmp_path)


def damage(path: Path) -> str:
    """Change an object; the md5 that it has now."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    return hashlib.md5(path.read_bytes()).hexdigest()


def digest(path: Path) -> str:
    return "".join(path.parts[-2:]).removesuffix(".dir")


# a real service


def test_a_pointer_that_moves_swaps_the_model_and_what_cannot_be_had_leaves_the_last_good_one(space: Workspace) -> None:
    with serving(space) as service:
        service.until_served(space.a)
        space.pin("b")
        service.until_served(space.b)
        assert service.problems() == {}

        text = (space.path / "dvc.lock").read_text()
        (space.path / "dvc.lock").write_text(text[: len(text) // 2])
        service.until_told("pointer", "dvc.lock: ")
        (space.path / "dvc.lock").write_text(text.replace(space.b, "0" * 32 + ".dir"))
        said = service.until_told("champion", "nowhere to be had")
        assert f".dvc/cache/files/md5/00/{'0' * 30}.dir is not there" in said
        assert service.served() == space.b
        assert service.ask("/ready")[0] == 200
        space.pin("a")
        service.until_served(space.a)
        assert service.problems() == {}


@pytest.mark.parametrize("which", [0, 1], ids=["the listing", "a file"])
def test_a_damaged_object_in_the_cache_names_the_file_and_both_hashes(space: Workspace, which: int) -> None:
    path = list(space.objects("b"))[which]
    whole = path.read_bytes()
    with serving(space) as service:
        service.until_served(space.a)
        wrong = damage(path)
        space.pin("b")
        shown = path.relative_to(space.path)
        service.until_told("champion", f"{shown}: its md5 is {wrong}, expected {digest(path)}; remove it")
        assert service.served() == space.a
        path.write_bytes(whole)
        service.until_served(space.b)


def test_a_damaged_missing_or_cut_object_in_a_remote_names_it_and_the_whole_one_is_served(
    space: Workspace, tmp_path: Path
) -> None:
    space.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    space.run("dvc", "push", "--quiet")
    space.pin("b")
    shutil.copytree(space.path / "models/b", space.path / "data/model", dirs_exist_ok=True)
    space.run("dvc", "push", "--quiet")
    paths = list(space.objects("b", tmp_path / "store"))
    space.pin("a")
    for gone in ("data", ".dvc/cache", "models"):
        shutil.rmtree(space.path / gone)
    cut = threading.Event()

    class Remote(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = Path(f"{tmp_path}/store{self.path}")
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut.is_set() else content)

        def log_message(self, *_: object) -> None:
            pass

    with web(Remote) as address, serving(space, PINWERK_REMOTES=f"http://{address}") as service:
        service.until_served(space.a)
        whole = paths[1].read_bytes()
        shown = f"http://{address}/{paths[1].relative_to(tmp_path / 'store')}"
        wrong = damage(paths[1])
        space.pin("b")
        service.until_told("champion", f"{shown}: its md5 is {wrong}, expected {digest(paths[1])}")
        paths[1].unlink()
        service.until_told("champion", f"{shown} is not there")
        paths[1].write_bytes(whole)
        cut.set()
        half = paths[0].read_bytes()[: paths[0].stat().st_size // 2]
        service.until_told("champion", f"its md5 is {hashlib.md5(half).hexdigest()}, expected {digest(paths[0])}")
        assert service.served() == space.a
        cut.clear()
        service.until_served(space.b)


def test_a_service_in_a_folder_with_nothing_but_params_a_lock_file_and_a_remote_answers(
    space: Workspace, tmp_path: Path
) -> None:
    space.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    space.run("dvc", "push", "--quiet")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("params.yaml", "dvc.lock", "a.lock", "b.lock"):
        shutil.copyfile(space.path / name, bare / name)
    env = {"PINWERK_REMOTES": str(tmp_path / "store"), "PINWERK_STORE": str(tmp_path / "kept"), "PATH": ""}
    with serving(Workspace(bare, space.env), **env) as service:
        service.until_served(space.a)
    assert bundle_md5(tmp_path / "kept" / space.a.removesuffix(".dir")) == space.a


def test_a_service_without_a_model_is_alive_not_ready_and_answers_once_there_is_one(space: Workspace) -> None:
    (space.path / "dvc.lock").unlink()
    with serving(space) as service:
        status, answer, _ = service.ask("/ready")
        assert (status, answer["ready"]) == (503, False)
        assert "dvc.lock: there is no such file; `dvc repro`" in answer["problems"]["pointer"]
        assert service.ask("/predict", {"features": {}})[0] == 503
        space.pin("a")
        service.until(lambda: service.ask("/ready")[0] == 200, "ready")
        assert service.served() == space.a


def test_a_baked_in_bundle_is_served_and_a_damaged_one_is_not(space: Workspace) -> None:
    with serving(space, PINWERK_BUNDLE="models/b") as service:
        assert service.served() == space.b
    assert not (space.path / "data/.bundles").exists()
    (space.path / "models/b/model.onnx").write_bytes(b"damaged")
    with serving(space, PINWERK_BUNDLE="models/b") as service:
        assert "model.onnx" in service.until_told("champion", "cannot be loaded")


def test_git_and_the_registry_are_followed_too(space: Workspace) -> None:
    space.run("git", "add", "--force", "dvc.lock")
    space.run("git", "commit", "--quiet", "--message", "a")
    space.serve(source="git", champion="main", every=0.1)
    with serving(space) as service:
        service.until_served(space.a)
        space.pin("b")
        space.run("git", "add", "--force", "dvc.lock")
        space.run("git", "commit", "--quiet", "--message", "b")
        service.until_served(space.b)
        (space.path / ".git/refs/heads/main").unlink()
        service.until_told("pointer", "'main' is no revision")
        assert service.served() == space.b


def test_a_registry_that_is_down_hangs_or_talks_garbage_leaves_the_last_good_model(space: Workspace) -> None:
    space.serve(source="registry", champion="champion", challenger="challenger", every=0.1)
    how = {"champion": space.a, "challenger": space.b}
    ill: list[str] = []
    released = threading.Event()

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "hang" in ill:
                released.wait(30)
            alias = self.path.rpartition("alias=")[2]
            if alias in how:
                version = {"version": "1", "tags": [{"key": "md5", "value": how[alias]}]}
                status, answer = 200, json.dumps({"model_version": version})
            else:
                said = f"Registered model alias {alias} not found."
                status, answer = 400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": said})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>" if "garbage" in ill else answer.encode())

        def log_message(self, *_: object) -> None:
            pass

    def variants() -> set[str]:
        return set(service.ask("/admin/refresh", {}, Authorization="Bearer token")[1]["variants"])

    with web(Registry) as address:
        env = {"MLFLOW_TRACKING_URI": f"http://ann:s3cret@{address}", "PINWERK_ADMIN_TOKEN": "token"}
        with serving(space, **env) as service:
            service.until_served(space.a)
            assert variants() == {"champion", "challenger"}
            ill.append("garbage")
            service.until_told("pointer", f"http://{address}: does not answer as MLflow does")
            ill[:] = ["hang"]
            service.until_told("pointer", f"http://{address}: did not answer within 2 s")
            assert service.served() == space.a
            ill.clear()
            released.set()
            how["champion"] = how.pop("challenger")
            service.until_served(space.b)
            assert variants() == {"champion"}
            del how["champion"]
            service.until_told("pointer", "has no alias 'champion'")
            assert service.served() == space.b
            assert "s3cret" not in service.log.read_text()


@pytest.mark.slow
def test_under_load_a_swap_fails_no_request_and_each_answer_names_a_model_that_was_live(space: Workspace) -> None:
    space.serve(every=0.2)
    names = {"a": space.a, "b": space.b}
    moves = [(0.0, names["a"])]

    async def swapping() -> None:
        for turn in range(10_000):
            name = "ba"[turn % 2]
            moves.append((time.monotonic(), names[name]))
            space.pin(name)
            await asyncio.sleep(3)  # for a second after the two that a swap may take, one model is right

    async def both(url: str) -> None:
        swaps = asyncio.create_task(swapping())
        done = await load(url, CONNECTIONS, SECONDS)
        swaps.cancel()
        assert done.failures == []
        assert set(done.md5s) == set(names.values())
        for sent, answered, md5 in done.answers:
            assert md5 in _live(sent, answered), (sent, answered, md5, moves)

    def _live(sent: float, answered: float) -> set[str]:
        """What may have been live between two moments: a pointer is followed within 2 s."""
        before = [md5 for moved, md5 in moves if moved <= sent - 2.0][-1]
        return {before, *(md5 for moved, md5 in moves if sent - 2.0 < moved <= answered)}

    with serving(space, workers=2) as service:
        service.until_served(space.a)
        asyncio.run(both(service.url))
        space.pin("b")
        time.sleep(2)
        assert {service.served() for _ in range(40)} == {space.b}


# its own process


class Pointing:
    """A pointer that says what it is told to."""

    variants: tuple[str, ...] = ("champion", "challenger")

    def __init__(self, **says: str | Exception | None) -> None:
        self.says = says

    def md5(self, variant: str) -> str | None:
        said = self.says.get(variant)
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
def settings(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(space.path)
    return read_settings({})


def test_an_unexpected_error_is_told_and_the_next_look_goes_on(settings: Settings, space: Workspace) -> None:
    pointer = Pointing(champion=space.a, challenger=RuntimeError("boom"))
    live = Live(settings, pointer)
    asyncio.run(live.look())
    assert live.problems["pointer"] == "unexpected: RuntimeError('boom')"
    assert live.champion is not None
    assert live.looked == 0.0
    pointer.says = {"champion": space.b, "challenger": ModelError("no")}
    asyncio.run(live.look())
    assert live.problems == {"pointer": "no"}
    assert live.champion.predictor.md5 == space.b
    pointer.says = {"champion": space.b}
    asyncio.run(live.look())
    assert live.problems == {}
    assert live.looked > 0


def test_a_challenger_that_becomes_champion_is_not_loaded_twice(settings: Settings, space: Workspace) -> None:
    pointer = Pointing(champion=space.a, challenger=space.b)
    live = Live(settings, pointer)
    asyncio.run(live.look())
    challenger = live.variants["challenger"]
    pointer.says = {"champion": space.b, "challenger": None}
    asyncio.run(live.look())
    assert set(live.variants) == {"champion"}
    assert live.variants["champion"].predictor is challenger.predictor


def test_a_model_that_cannot_be_had_is_not_tried_with_each_look_unless_somebody_asks(
    settings: Settings, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(settings, Pointing(champion="0" * 32 + ".dir"))
    tried: list[str] = []
    bundle = live._store.bundle
    monkeypatch.setattr(live._store, "bundle", lambda md5: (tried.append(md5), bundle(md5))[1])
    for _ in range(5):
        live._follow()
    assert len(tried) == 1
    waits = []
    for _ in range(7):
        waits.append(live._failures["champion"].wait)
        asyncio.run(live.look())
    assert len(tried) == 8
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert "nowhere to be had" in live.problems["champion"]


def test_a_bundle_that_is_whole_but_fails_its_own_check_rows_is_not_served(
    settings: Settings, space: Workspace
) -> None:
    wrong = space.path / "data/model"
    tree = json.loads((wrong / "check.json").read_text())
    tree["scores"][0] = tree["scores"][0][::-1]
    (wrong / "check.json").write_text(json.dumps(tree))
    pointer = Pointing(champion=space.b)
    live = Live(settings, pointer)
    asyncio.run(live.look())
    pointer.says = {"champion": bundle_md5(wrong)}
    asyncio.run(live.look())
    assert "its scores are off by" in live.problems["champion"]
    assert live.champion is not None
    assert live.champion.predictor.md5 == space.b


def test_a_start_waits_for_the_first_model_but_not_for_ever(
    settings: Settings, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.live.FIRST", 0.2)
    go = threading.Event()

    class Slow(Pointing):
        def md5(self, variant: str) -> str | None:
            go.wait(30)
            return super().md5(variant)

    async def started() -> None:
        live = Live(settings, Slow(champion=space.a))
        await live.start()
        assert live.champion is None
        go.set()
        await live.look()
        assert live.champion is not None
        await live.stop()

    asyncio.run(started())
