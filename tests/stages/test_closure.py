from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.closure import closure, covers, problems

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small package of stages: train imports model, which imports errors inside a function and names a template."""
    files = {
        "__init__": "",
        "train": "from __future__ import annotations\nimport json\nfrom stages.model import Model\n",
        "model": "def f():\n    import stages.errors\n    return 'card.md.j2'\n",
        "errors": "",
        "drift": "from stages import errors\n",
        "idle": "",
    }
    (tmp_path / "stages").mkdir()
    for name, text in files.items():
        (tmp_path / f"stages/{name}.py").write_text(text)
    (tmp_path / "stages/card.md.j2").write_text("")
    return tmp_path


def pipeline(*deps: str, stage: str = "train") -> str:
    return yaml.safe_dump({"stages": {stage: {"cmd": f"python -m stages.{stage} --quiet", "deps": list(deps)}}})


WHOLE = ("stages/train.py", "stages/model.py", "stages/errors.py", "stages/card.md.j2")


def test_a_closure_follows_imports_inside_functions_and_templates(root: Path) -> None:
    assert closure("stages.train", root) == set(WHOLE)
    assert closure("stages.drift", root) == {"stages/drift.py", "stages/errors.py"}


def test_deps_that_are_the_closure_are_right(root: Path) -> None:
    assert problems(pipeline("data/raw", *WHOLE), root) == []


@pytest.mark.parametrize("absent", WHOLE)
def test_a_module_that_is_imported_and_not_listed_is_named(root: Path, absent: str) -> None:
    (said,) = problems(pipeline(*(dep for dep in WHOLE if dep != absent)), root)
    assert said == f"dvc.yaml: train: imports {absent}; add to its deps"


def test_a_module_that_is_listed_and_not_imported_is_named(root: Path) -> None:
    (said,) = problems(pipeline(*WHOLE, "stages/idle.py"), root)
    assert said == "dvc.yaml: train: does not import stages/idle.py; remove from its deps"


def test_a_folder_covers_what_lies_in_it(root: Path) -> None:
    folder = root / "stages/compiling"
    folder.mkdir()
    (folder / "__init__.py").write_text("from stages.compiling.trees import grow\n")
    (folder / "trees.py").write_text("")
    (root / "stages/drift.py").write_text("from stages.compiling import grow\n")
    assert problems(pipeline("stages/drift.py", "stages/compiling", stage="drift"), root) == []
    assert problems(pipeline("stages/drift.py", "stages/compiling/", stage="drift"), root) == []
    assert problems(pipeline("stages/drift.py", stage="drift"), root)


def test_modules_that_import_each_other_end(root: Path) -> None:
    (root / "stages/errors.py").write_text("import stages.train\n")
    assert closure("stages.train", root) == set(WHOLE)


def test_dvc_yaml_lists_what_each_stage_imports() -> None:
    assert problems((ROOT / "dvc.yaml").read_text(encoding="utf-8"), ROOT) == []


def test_a_new_import_in_a_copy_of_the_real_stages_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    ingest = tmp_path / "stages/ingest.py"
    ingest.write_text(ingest.read_text(encoding="utf-8") + "\nimport stages.card\n", encoding="utf-8")
    new = set(problems(text, tmp_path)) - set(problems(text, ROOT))
    assert any("ingest: imports" in said and "stages/card.py" in said for said in new)


names = st.text(st.sampled_from("ab/."), min_size=1, max_size=6)


@given(names, names)
def test_a_dep_covers_itself_and_what_is_below_it_only(dep: str, rest: str) -> None:
    assert covers(dep, dep)
    assert covers(dep, f"{dep.rstrip('/')}/{rest}")
    assert not covers(f"{dep}c", dep)
    assert not covers(dep.rstrip("/"), f"{dep.rstrip('/')}c/{rest}")
