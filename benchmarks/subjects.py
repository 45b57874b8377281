"""What is measured, in which environment, and the process that measures it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import HERE, EnvironmentMissingError, bare_packages, peer_environment

PEER = ("legrad_torch==1.1", "open_clip_torch==2.23.0")
BARE_PEER = ("legrad_torch==1.1", "einops", "opencv-python-headless")


@dataclass(frozen=True)
class Subject:
    """What a worker is asked to measure, and the Python and the module path that run it.

    ``python`` is None where the environment is missing; ``note`` then says why.
    """

    name: str
    python: Path | None
    path: Path | None = None
    note: str = ""


def find_subjects(peer_python: Path | None) -> dict[str, Subject]:
    """The plain forward pass, this package, the authors' package, and that one under this environment's open_clip.

    Args:
        peer_python: a Python that has the authors' package; by default its environment is made.
    """
    ours = Path(sys.executable)
    subjects = {"forward": Subject("forward", ours), "ours": Subject("captum_vit", ours)}
    try:
        subjects["peer"] = Subject("legrad_torch", peer_python or peer_environment("legrad", *PEER))
    except EnvironmentMissingError as error:
        subjects["peer"] = Subject("legrad_torch", None, note=f"not measured: {error}")
    try:
        subjects["bare peer"] = Subject("legrad_torch", ours, path=bare_packages("legrad-bare", *BARE_PEER))
    except EnvironmentMissingError as error:
        subjects["bare peer"] = Subject("legrad_torch", None, note=f"not measured: {error}")
    return subjects


class WorkerFailedError(RuntimeError):
    """A measured process that ended before it answered; the message is the last line of what it said."""


class Worker:
    """A running script, which answers questions while the other workers wait.

    Args:
        subject: what it measures.
        workload: the file that the script's ``Measured`` reads.
        options: ``device`` and ``threads``.
        script: a file in this folder that calls `serving.serve`.
    """

    def __init__(
        self, subject: Subject, workload: Path, options: argparse.Namespace, script: str = "speed_worker.py"
    ) -> None:
        self._name = subject.name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `stop`)
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
        if subject.path is not None:
            environment["PYTHONPATH"] = str(subject.path)
        self._process = subprocess.Popen(
            [
                *(str(subject.python), str(HERE / script), subject.name, str(workload)),
                *("--device", options.device, "--threads", str(options.threads)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=environment,
        )

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """The answer of one method of the script's ``Measured``.

        Raises:
            WorkerFailedError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": method, **arguments}), file=self._process.stdin)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["no message"]
            raise WorkerFailedError(f"{self._name} ended with {code}: {said[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()
