"""An evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from captum_vit.evaluation.report.document import document
from captum_vit.evaluation.stored import stored

__all__ = ["write_report"]


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Writes what a folder of results holds as a page to be opened in a browser.

    Args:
        folder: that `evaluate` wrote. Where it kept maps, the page has a gallery. A run that has not ended is shown as
            far as it came.
        path: of the page; ``report.html`` in the folder by default.

    Returns:
        The path.

    Raises:
        NoResultsError: a folder without results; the message says what is missing.
        OSError: a page that can't be written.
    """
    path = Path(folder) / "report.html" if path is None else Path(path)
    path.write_text(document(stored(folder)), encoding="utf-8", newline="\n")
    return path
