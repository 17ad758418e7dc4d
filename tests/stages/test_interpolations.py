from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.interpolations import ALLOWED, close_environment, override_problems, problems

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return Path("conf")


def test_conf_as_it_is_interpolates_nothing_of_the_machine() -> None:
    assert problems(CONF) == []


# every way to say it that OmegaConf understands
SPELLINGS = [
    "${oc.env:SECRET}",
    "${ oc.env : SECRET }",
    "${oc.env:SECRET,default}",
    "a ${oc.env:SECRET} b",
    "${oc.${kind}:SECRET}",
    "${oc.decode:${oc.env:SECRET}}",
    "${oc.decode:'7'}",
    "${oc.create:{_target_: os.getcwd}}",
    "${oc.dict.keys:${oc.env:SECRET}}",
    "${data.${oc.env:SECRET}}",
    "${hydra:runtime.cwd}",
    r"\${oc.env:SECRET}",  # a text that reads as an interpolation where another value takes it over
    "${dollar}{oc.env:SECRET}",
    "{oc.env:SECRET}",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_what_reads_the_machine_is_refused_with_file_and_line(text: str, conf: Path) -> None:
    (conf / "evaluate/default.yaml").write_text(
        f"metrics:\n  # why\n  - a\n  - '{text.replace(chr(39), chr(39) * 2)}'\n"
    )
    (said,) = problems(conf)
    assert said.startswith("conf/evaluate/default.yaml:4: ")


@pytest.mark.parametrize("text", [r'"\x24{oc.env:SECRET}"', r'"$\u007boc.env:SECRET}"', "&a [*a, '${oc.env:SECRET}']"])
def test_a_spelling_that_only_yaml_understands_is_no_way_round(text: str, conf: Path) -> None:
    (conf / "engine/duckdb.yml").write_text(f"key: {text}\n")
    (said,) = problems(conf)
    assert "conf/engine/duckdb.yml:1: ${oc.env:…} is not for conf/" in said
    assert "database: TICKETS_URL" in said


def test_every_place_is_named_at_once(conf: Path) -> None:
    (conf / "model/a.yaml").write_text("a: ${oc.env:A}\nb: {c: ['${oc.env:B}']}\n")
    (conf / "data/task/b.yaml").write_text("${oc.env:KEY}: 1\n")
    assert [said.split(": ")[0] for said in problems(conf)] == [
        "conf/data/task/b.yaml:1",
        "conf/model/a.yaml:1",
        "conf/model/a.yaml:2",
    ]


@pytest.mark.parametrize("key", ["hydra", "searchpath"])
def test_conf_does_not_say_from_where_hydra_loads_modules(key: str, conf: Path) -> None:
    path = conf / "config.yaml"
    path.write_text(f"{path.read_text()}{key}: {{searchpath: ['pkg://evil']}}\n")
    (said,) = problems(conf)
    assert f": {key}: conf/ says what is run" in said


@pytest.mark.parametrize("text", ["${data.name}", "x${seed}y", "${oc.dict.keys:data.columns.numeric}", "a$", "^a{2}$"])
def test_other_values_of_conf_and_plain_text_are_let_through(text: str, conf: Path) -> None:
    (conf / "engine/duckdb.yaml").write_text(f"key: '{text}'\n")
    assert problems(conf) == []


def test_a_file_that_is_no_yaml_is_left_to_who_composes_it(conf: Path) -> None:
    (conf / "engine/duckdb.yaml").write_bytes(b"\xff")
    (conf / "engine/other.yaml").write_text("a: [")
    (conf / "engine/empty.yaml").write_text("")
    assert problems(conf) == []


def test_an_override_is_held_against_the_same_rule_and_its_value_is_not_shown() -> None:
    (said,) = override_problems(["seed=7", "model=ridge", "+data.title=${oc.env:SECRET,hunter2}", "a=${seed}"])
    assert said.startswith("override +data.title: ${oc.env:…} is not for conf/")
    assert "hunter2" not in said


PIECES = st.sampled_from(
    ["$", "{", "}", "${", "\\", "oc.env:SECRET", "oc.env", ":", "SECRET", "${a}", "${b}", "${c}", " ", "x"]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=6).map("".join)


@given(st.dictionaries(st.sampled_from("abc"), TEXTS, min_size=2))
def test_no_texts_put_together_read_the_environment(tree: dict[str, str]) -> None:
    from stages.interpolations import _problem

    if any(_problem(text) for text in tree.values()):
        return
    assert "hunter2" not in str(resolved(tree))


def resolved(tree: dict[str, Any]) -> Any:
    """As DVC does it, with a resolver that gives a secret away."""
    OmegaConf.register_new_resolver("oc.env", lambda *_: "hunter2", replace=True)
    try:
        config = OmegaConf.create(tree)
        OmegaConf.resolve(config)
        return OmegaConf.to_container(config)
    except OmegaConfBaseException:
        return None
    finally:
        close_environment()


def test_the_secret_of_that_test_is_given_away_where_it_can_be() -> None:
    assert resolved({"a": "$", "b": "${a}{oc.env:SECRET}", "c": "${b}"})["c"] == "hunter2"


def test_in_this_process_the_resolvers_fail_whatever_the_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    close_environment()
    for text in ("${oc.env:SECRET}", "${oc.decode:'7'}", "${oc.create:{a: 1}}"):
        with pytest.raises(OmegaConfBaseException, match=r"not for conf/"):
            OmegaConf.resolve(OmegaConf.create({"a": text}))
    assert OmegaConf.create({"a": {"b": 1}, "c": "${oc.dict.keys:a}"}).c == ["b"]
    assert "oc.dict.keys" in ALLOWED
