"""Where a benchmark runs: this machine, this commit, and the environments of the packages that it is compared with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE / ".peers"


class EnvironmentMissingError(RuntimeError):
    """An environment that could not be made; the message says why."""


def machine() -> str:
    """Processor, cores and memory of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def commit() -> str:
    """The commit of the working tree, with "-dirty" where tracked files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],  # noqa: S607
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def peer_environment(name: str, *requirements: str) -> Path:
    """The Python of a peer's own virtual environment, made when it is missing; torch and timm are as in this one.

    Args:
        name: folder under ``benchmarks/.peers``.
        requirements: what pip installs there.

    Raises:
        EnvironmentMissingError: it could not be made.
    """
    folder = PEERS / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    same = [f"{package}=={metadata.version(package).partition('+')[0]}" for package in ("torch", "timm")]
    _make(
        folder,
        [*requirements, *same],
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *requirements, *same],
    )
    return python


def bare_packages(name: str, *requirements: str) -> Path:
    """A folder of packages without their dependencies, to be put on ``PYTHONPATH`` of this environment's Python.

    Raises:
        EnvironmentMissingError: it could not be made.
    """
    folder = PEERS / name
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    _make(folder, requirements, [*install, *requirements])
    return folder


def _make(folder: Path, requirements: Sequence[str], *commands: Sequence[str]) -> None:
    """Runs the commands unless they have already run to their end for these requirements."""
    finished = folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if finished.exists() and finished.read_text() == wanted:
        return
    print(f"Making {folder.relative_to(HERE.parent)} with {', '.join(requirements)} ...", flush=True)
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise EnvironmentMissingError(f"{' '.join(command[1:4])} failed: {last}")
    finished.write_text(wanted)
