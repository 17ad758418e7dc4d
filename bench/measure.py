"""Run a command as a whole process tree and take the operating system's own figures."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """wall and cpu in seconds (cpu: user + system of the process tree), peak in MB (of the largest process)."""

    wall: float
    cpu: float
    peak: float
    out: str


def run(command: Sequence[str], folder: Path, env: dict[str, str]) -> Run:
    """Run to the end. Raises RuntimeError with what it printed where it failed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{out}")
    peak = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, out)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """`median (least to most)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def machine() -> str:
    """When and on what, for the page of figures."""
    cores = os.cpu_count()
    versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cores} cores, {versions}, load {os.getloadavg()[0]:.1f} at the start"
    )
