"""The README is run, not believed."""

from __future__ import annotations

import random
import re
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import ROOT, Repository, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The fenced block of a language that holds a text."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b)


def customers(folder: Path) -> str:
    """churn.csv and a database of tickets; customers with many tickets leave. The database's URL."""
    chance = random.Random(7)
    start = datetime(2026, 1, 1)
    lines, tickets = ["customer,asked_at,plan,months,churned"], []
    for customer in range(1500):
        asked = start + timedelta(hours=chance.randrange(24 * 175))
        opened = chance.randrange(6)
        tickets += [(customer, str(asked - timedelta(days=chance.randrange(1, 29)))) for _ in range(opened)]
        gone = chance.random() < 0.1 + 0.12 * opened
        lines.append(f"{customer},{asked},{chance.choice(['basic', 'plus'])},{chance.randrange(60)},{int(gone)}")
    (folder / "data/source/churn.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with sqlite3.connect(folder / "tickets.db") as database:
        database.execute("create table tickets (id integer primary key, customer integer, opened_at text)")
        database.executemany("insert into tickets (customer, opened_at) values (?, ?)", tickets)
    database.close()
    return f"sqlite:///{folder / 'tickets.db'}"


@pytest.mark.slow
def test_the_readmes_own_data_set_runs_as_it_is_written(fresh: Repository) -> None:
    fresh.write("conf/data/churn.sql", block("sql", "churned"))
    fresh.write("conf/data/churn.yaml", block("yaml", "name: churn"))
    url = customers(fresh.path)
    fresh.commit("churn")
    said = fresh.run("dvc", "exp", "run", "-S", "data=churn", env={"TICKETS_URL": url})
    assert "customers 1,500" in said
    assert fresh.json("data/reports/gate.json")["passed"]
    assert fresh.json("data/reports/profile.json")["splits"]["train"]["rows"] > 500
    assert fresh.json("data/model/signature.json")["columns"][1]["name"] == "tickets_30d"


@pytest.mark.slow
def test_a_colleague_s_clone_of_what_the_readme_shares_has_nothing_to_do(fresh: Repository, tmp_path: Path) -> None:
    fresh.write("conf/data/churn.sql", block("sql", "churned"))
    fresh.write("conf/data/churn.yaml", block("yaml", "name: churn"))
    url = customers(fresh.path)
    defaults = (fresh.path / "conf/config.yaml").read_text(encoding="utf-8")
    fresh.write("conf/config.yaml", defaults.replace("data: flights", "data: churn"))
    fresh.run("dvc", "add", "data/source/churn.csv")
    fresh.run("dvc", "repro", env={"TICKETS_URL": url})
    branch = fresh.run("git", "branch", "--show-current").strip()
    fresh.run("git", "init", "--quiet", "--bare", f"--initial-branch={branch}", str(tmp_path / "origin.git"))
    fresh.run("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    fresh.run("git", "config", "push.autoSetupRemote", "true")
    share = block("sh", "dvc push").replace("s3://bucket/pinwerk", str(tmp_path / "store"))
    fresh.run("sh", "-e", "-c", share)
    fresh.run("git", "clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone", environment(tmp_path / "elsewhere"))
    clone.run("dvc", "pull")
    assert "Running stage" not in clone.run("dvc", "repro")
    assert clone.run("git", "status", "--porcelain") == ""


def test_every_make_verb_and_module_that_the_readme_names_is_there() -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE)) <= verbs
    for module in re.findall(r"python -m ([a-z_.]+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_every_link_of_the_pages_leads_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "bench").glob("*.md"),
    ]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 250
