from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from functools import partial

import pytest
from typer.testing import CliRunner

from captum_vit import METHODS
from captum_vit.attr import WRAPPERS
from captum_vit.cli import app


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from captum_vit.cli import app\n"
        "heavy = ('torch', 'captum', 'timm', 'transformers', 'open_clip', 'torchvision', 'matplotlib', 'numpy')\n"
        "try:\n"
        "    app(['explain', '--help'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, [name for name in heavy if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--image-size" in printed
    assert printed.splitlines()[-1] == "0 []"


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "captum_vit.cli", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"explain .*\n.*evaluate .*\n.*report .*\n.*list .*\n.*doctor .*\n.*app ", printed)


@pytest.mark.slow  # the model libraries are imported once more
def test_an_interrupt_from_the_keyboard_ends_with_130(tmp_path):
    command = [sys.executable, "-m", "captum_vit.cli", "explain", *["skimage:coffee"] * 500]
    command += ["--model", "timm:test_vit", "--untrained", "-o", str(tmp_path)]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell makes its background jobs deaf to it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    ) as running:
        assert running.stdout.readline().startswith("skimage:coffee: predicted ")
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"Interrupted. What was finished is in {tmp_path}." in error
    assert "Traceback" not in error


def test_list_prints_every_method_in_aligned_columns():
    lines = CliRunner().invoke(app, ["list"]).stdout.splitlines()
    assert lines[0].split() == ["method", "name", "class-specific", "signed", "passes", "reference"]
    starts = [match.start() for match in re.finditer("-+", lines[1])]
    rows = [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)] for line in lines[2:]
    ]
    assert rows == [
        [
            name,
            method.name,
            "yes" if method.class_specific else "no",
            "yes" if method.signed else "no",
            method.passes,
            method.reference,
        ]
        for name, method in METHODS.items()
    ] + [[name, each.name, "as inside", "as inside", each.passes, each.reference] for name, each in WRAPPERS.items()]


def test_list_as_json():
    rows = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert [row["method"] for row in rows] == [*METHODS, *WRAPPERS]
    assert rows[list(METHODS).index("attention-cam")] == {
        "method": "attention-cam",
        "name": "AttentionCAM",
        "class_specific": True,
        "signed": True,
        "passes": "1 forward + 1 backward",
        "reference": "arXiv:2404.03214, eq. 11",
    }
