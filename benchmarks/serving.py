"""What the measured processes share: they answer questions that arrive on standard input, and time single calls.

Each question is a line of JSON with the name of a method under "do"; each answer is a line of JSON. Nothing but PyTorch
is imported, for the processes run in the environments of several packages.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

Call: TypeAlias = Callable[[], object]
Workload: TypeAlias = dict[str, Any]


def serve(subjects: Iterable[str], make: Callable[[str, Path, torch.device], object]) -> None:
    """Answers until standard input closes; what libraries print goes to standard error.

    Args:
        subjects: names that the command line may give.
        make: from a name, the file with the workload and a device to the object whose methods are asked.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=subjects)
    parser.add_argument("workload", type=Path)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(options.threads)
    measured = make(options.subject, options.workload, options.device)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(getattr(measured, question.pop("do"))(**question)), file=answers)


def finished(call: Callable[[], Tensor], device: torch.device) -> Tensor:
    """The result of one call, waited for."""
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result


def repeated(run: Call, seconds: float) -> list[float]:
    """Seconds of single calls, one or more until they add up to ``seconds``."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def versions(packages: Iterable[str], device: torch.device) -> dict[str, str]:
    """Versions of what runs here; an empty text for what is not installed."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"python": platform.python_version(), "gpu": gpu, **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
