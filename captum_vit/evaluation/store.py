"""Results on disk: appended as the run goes, so that a killed run goes on where it stopped.

A folder holds ``config.json``, which says what is evaluated, and a file of JSON lines per process: ``results`` with the
scores and, where they are kept, ``maps`` to be looked at. The unit of work is a few samples that follow each other; its
lines are written at once, the last of them saying that the unit is whole. Lines of a unit without that last line are
ignored, as is a line that was cut off when the run was killed, so that nothing is counted twice and nothing half. Any
other line that was not written here is an error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = ["ChangedConfigurationError", "DamagedResultsError", "Kind", "Record", "Store"]

Kind: TypeAlias = Literal["results", "maps"]
"""What a file of records holds."""

Record: TypeAlias = dict[str, Any]
"""One line: a map with its scores, or a sample that was skipped."""


class ChangedConfigurationError(ValueError):
    """A folder holds results of another evaluation."""


class DamagedResultsError(ValueError):
    """A file of results holds what no evaluation wrote; the message names file and line, and what was expected."""


_BEGINNING = '{"unit": '
_SHOWN = 60
"""Letters of a wrong line that are shown."""


class Store:
    """A folder of results.

    Args:
        folder: made where it does not exist.

    Raises:
        OSError: a folder that can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def configure(self, config: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
        """Says what is evaluated, or checks that it is still the same.

        Args:
            config: decides the numbers; must not change.
            about: device, commit and the like.

        Returns:
            ``about`` of the first run in this folder.

        Raises:
            ChangedConfigurationError: results of something else lie here; the message names what differs.
        """
        path, wanted = self.folder / "config.json", json.loads(json.dumps(config))
        if not path.exists():
            text = json.dumps({"config": wanted, "about": dict(about)}, indent=2, ensure_ascii=False)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(f"{text}\n", encoding="utf-8")
            partial.replace(path)
        found = self.config
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise ChangedConfigurationError(
                    f"{self.folder} holds results with {name} {found.get(name)!r}, got {wanted.get(name)!r}. "
                    "Choose another folder, or the same configuration to go on."
                )
        return self.about

    @property
    def config(self) -> dict[str, Any]:
        """What is evaluated."""
        return self._read("config")

    def _read(self, part: str) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[part]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedResultsError(
                f"{path} must be the JSON object with config and about that captum-vit evaluate wrote: "
                f"{type(error).__name__}: {error}. Choose another folder."
            ) from error
        return found

    @property
    def about(self) -> dict[str, Any]:
        """Device, commit and the like, of the first run in this folder."""
        return self._read("about")

    def append(self, rank: int, unit: int, records: Sequence[Record], kind: Kind = "results") -> None:
        """Writes the records of one unit, durably.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        lines = [json.dumps({"unit": unit, **_jsonable(each)}, ensure_ascii=False) for each in records]
        lines.append(json.dumps({"unit": unit, "whole": len(records)}))
        path = self.folder / f"{kind}-{rank:05d}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            if file.tell() and not _ends_whole(path):
                file.write("\n")  # the last run was killed within a line
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def units(self, kind: Kind = "results") -> dict[int, list[Record]]:
        """The records of every whole unit, by its number.

        Raises:
            DamagedResultsError: a line that is not one of `append`, nor the beginning of one.
        """
        units: dict[int, list[Record]] = {}
        for path in sorted(self.folder.glob(f"{kind}-*.jsonl")):
            pending: dict[int, list[Record]] = {}
            for line in _lines(path):
                unit = line.pop("unit")
                if "whole" not in line:
                    pending.setdefault(unit, []).append(line)
                    continue
                records = pending.pop(unit, [])
                if line["whole"] == 0 or len(records) >= line["whole"]:
                    units[unit] = records[len(records) - line["whole"] :]  # what came before is of a killed run
        return units

    def records(self, kind: Kind = "results") -> list[Record]:
        """All records in the order of the dataset."""
        return [record for _, records in sorted(self.units(kind).items()) for record in records]


def _lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if line.startswith(_BEGINNING) or _BEGINNING.startswith(line.rstrip("\n")):
                    continue  # cut off when the run was killed; its unit is not whole
                raise _damaged(path, number, line) from error
            if not _is_record(record):
                raise _damaged(path, number, line)
            yield record


def _is_record(line: Any) -> bool:
    """Whether it names its unit, and a sample or the number of the unit's records."""
    if not isinstance(line, dict) or type(line.get("unit")) is not int:
        return False
    return type(line["whole"]) is int if "whole" in line else isinstance(line.get("sample"), str)


def _damaged(path: Path, number: int, line: str) -> DamagedResultsError:
    shown = line.rstrip("\n")
    shown = f"{shown[:_SHOWN]}..." if len(shown) > _SHOWN else shown
    return DamagedResultsError(
        f"{path}, line {number}, must be a record of captum-vit evaluate, a JSON object with the number of its unit "
        f"and the id of a sample, got {shown!r}. Take the line away, or choose another folder."
    )


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _jsonable(value: Any) -> Any:
    """NaN as None, which JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _jsonable(each) for name, each in value.items()}
    return [_jsonable(each) for each in value] if isinstance(value, (list, tuple)) else value
