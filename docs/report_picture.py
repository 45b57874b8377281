"""Draws a report in headless Chromium, for docs/report.md and the README: run ``python docs/report_picture.py``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from captum_vit.data import Scenes, SceneSamples
from captum_vit.evaluation import evaluate, subject_of, write_report
from captum_vit.zoo import load_model

FILE = Path(__file__).parent / "images" / "report.png"
SMALL = FILE.with_name("report-small.png")
WIDTH, HALF = 1200, 1120
"""Of the page, and of the part above its images, in pixels."""
METHODS = ["legrad", "chefer-cam", "attention-rollout", "attention-cam", "random"]
METRICS = ["energy-inside", "pointing-game(tolerance=4)", "insertion(steps=12, patch='grid')"]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000")


def main() -> None:
    """Evaluates on twelve scenes and shows the upper part of the page."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium must be installed, such as Debian's package chromium.")
    with TemporaryDirectory() as folder:
        subject, dataset = subject_of(load_model("scenes:vit")), SceneSamples(Scenes(12, seed=21))
        description = {"data": "scenes(length=12, seed=21)"}
        options = {"folder": folder, "keep_maps": True, "description": description, "progress": False}
        evaluate(subject, dataset, methods=METHODS, metrics=METRICS, **options)
        page, shot = write_report(folder), Path(folder) / "shot.png"
        command = [
            chromium,
            *FLAGS,
            f"--user-data-dir={folder}/profile",
            f"--screenshot={shot}",
            f"--window-size={WIDTH},{2 * HALF}",
        ]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True)  # noqa: S603
        with Image.open(shot) as picture:
            save(picture.crop((0, 0, WIDTH, 1900)), FILE)
            save(side_by_side(picture), SMALL)


def side_by_side(picture: Image.Image) -> Image.Image:
    """The scores, and the images to their right, at half the size."""
    both = Image.new("RGB", (2 * WIDTH, HALF), "white")
    for number in range(2):
        both.paste(picture.crop((0, number * HALF, WIDTH, (number + 1) * HALF)), (number * WIDTH, 0))
    return both.resize((WIDTH, HALF // 2), Image.Resampling.LANCZOS)


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture in few colours."""
    picture.convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
