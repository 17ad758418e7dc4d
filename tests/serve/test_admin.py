"""The admin route: only there with a token, only for who has it, and at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.service import Workspace, copied, serving


@pytest.fixture
def space(two_models: Workspace, tmp_path: Path) -> Workspace:
    made = copied(two_models, tmp_path)
    made.serve(every=60)
    return made


def test_without_a_token_there_is_no_such_route(space: Workspace) -> None:
    with serving(space) as service:
        assert service.ask("/admin/refresh", {}, Authorization="Bearer ")[0] == 404
        assert service.ask("/admin/refresh", {}, Authorization="Bearer None")[0] == 404


def test_who_has_the_token_sees_a_moved_pointer_followed_at_once(space: Workspace) -> None:
    with serving(space, PINWERK_ADMIN_TOKEN="tökén") as service:
        assert service.served() == space.a
        space.pin("b")
        for headers in ({}, {"Authorization": "Bearer t"}, {"Authorization": "tökén".encode().decode("latin-1")}):
            status, answer, said = service.ask("/admin/refresh", {}, **headers)
            assert status == 401
            assert said["www-authenticate"] == "Bearer"
            assert "tökén" not in str(answer)
        assert service.served() == space.a
        token = "Bearer tökén".encode().decode("latin-1")
        status, answer, _ = service.ask("/admin/refresh", {}, Authorization=token)
        assert status == 200
        assert answer["problems"] == {}
        assert answer["variants"]["champion"]["md5"] == space.b
        assert service.served() == space.b
        assert service.ask("/admin/refresh", method="GET", Authorization=token)[0] == 405
        (space.path / "dvc.lock").unlink()
        assert (
            "dvc.lock: there is no such file"
            in service.ask("/admin/refresh", {}, Authorization=token)[1]["problems"]["pointer"]
        )
