"""/docs and /openapi.json say what the live model takes, and what they show works as it stands."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.runtime import Predictor
from tests.serve.conftest import SIGNATURE
from tests.serve.running import Service, lay_out, running


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = lay_out(tmp_path_factory.mktemp("docs") / "home", small_bundle)
    with running(home, tmp_path_factory.mktemp("scratch")) as service:
        yield service


@pytest.fixture(scope="module")
def tree(service: Service) -> Any:
    return json.loads(service.ask("/openapi.json").body)


def test_every_command_on_the_page_works_as_it_stands(service: Service) -> None:
    page = service.ask("/docs").body.decode()
    commands = [html.unescape(text) for text in re.findall(r"<pre[^>]*>((?:curl|printf).*?)</pre>", page, re.DOTALL)]
    assert len(commands) == 4
    said = [subprocess.run(["bash", "-c", one], capture_output=True, text=True, check=True).stdout for one in commands]
    assert json.loads(said[0]) == json.loads(said[1])
    assert list(json.loads(said[2])[0]["probabilities"]) == ["a", "b", "c"]
    assert len(json.loads(said[2])) == 2
    header, row = said[3].splitlines()
    assert header == "size,weight,colour,prediction,probability_a,probability_b,probability_c"
    assert row.split(",")[3] == json.loads(said[0])["prediction"]
    shown = html.unescape(re.findall(r'aria-label="The answer">(.*?)</pre>', page, re.DOTALL)[0])
    assert json.loads(shown) == json.loads(said[0])


def test_the_features_have_their_names_types_and_units(tree: Any, predictor: Predictor) -> None:
    features = tree["components"]["schemas"]["Features"]
    assert list(features["properties"]) == [column.name for column in SIGNATURE.columns]
    assert features["properties"]["size"] == {"type": ["number", "null"], "description": "-3 to 3 cm; may be empty"}
    colour = features["properties"]["colour"]
    assert (colour["examples"], "enum" in colour) == (["blue", "red"], False)
    assert tree["info"]["version"] == predictor.md5


def test_the_examples_of_the_description_are_answered_as_it_says(service: Service, tree: Any) -> None:
    post = tree["paths"]["/predict"]["post"]
    content = post["requestBody"]["content"]["application/json"]
    assert list(content["examples"]) == ["named", "listed", "records"]
    answers = [
        json.loads(service.ask("/predict", json.dumps(example["value"]).encode()).body)
        for example in content["examples"].values()
    ]
    assert (
        answers[0] == answers[1] == answers[2][0] == post["responses"]["200"]["content"]["application/json"]["example"]
    )
    assert {"401", "413", "422", "503"} <= set(post["responses"])
    assert {"text/csv", "application/vnd.apache.parquet"} <= set(
        tree["paths"]["/predict/file"]["post"]["requestBody"]["content"]
    )


def test_every_reference_of_the_description_is_there(tree: Any) -> None:
    for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(tree)):
        assert name in tree["components"]["schemas"]


def test_a_host_that_would_run_in_the_readers_shell_is_not_printed(service: Service) -> None:
    page = service.ask("/docs", headers={"host": "x$(rm -rf ~)'"}).body.decode()
    assert "rm -rf" not in page
    assert "http://localhost:8000/predict" in page


def test_with_a_key_the_description_and_the_commands_ask_for_it(small_bundle: Path, tmp_path: Path) -> None:
    with running(lay_out(tmp_path / "home", small_bundle), tmp_path, PINWERK_API_KEY="secret") as service:
        tree = json.loads(service.ask("/openapi.json").body)
        assert tree["paths"]["/predict"]["post"]["security"] == [{"key": []}, {"bearer": []}]
        page = service.ask("/docs").body
        assert b"x-api-key: YOUR-KEY" in page
        assert b"secret" not in page
