from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from captum.attr import LayerGradCam
from dataset_files import ADE20K_SOUND, write_ade20k
from PIL import Image
from typer.testing import CliRunner

from captum_vit import METHODS
from captum_vit.attr import upsample
from captum_vit.cli import app
from captum_vit.evaluation import Store, dataset_of, subject_of
from captum_vit.metrics.functional import energy_inside
from captum_vit.zoo import load_model

METRICS = "energy-inside,pointing-game(tolerance=4)"
METHODS_ASKED = "attention-rollout,random"


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def command(folder, length=24, *more):
    asked = ["--dataset", f"scenes(length={length}, seed=5)", "--method", METHODS_ASKED, "--metric", METRICS]
    return ["-m", "captum_vit.cli", "evaluate", *asked, *more, "-o", str(folder)]


def scores(folder):
    return [{k: v for k, v in each.items() if k not in ("seconds", "bytes")} for each in Store(folder).records()]


def test_it_prints_and_writes_the_table(tmp_path):
    options = ("--dataset", "scenes(length=6)", "--method", METHODS_ASKED, "--metric", METRICS, "-o", tmp_path)
    first = run(*options)
    assert first.exit_code == 0, first.output
    lines = first.stdout.splitlines()
    assert lines[0].split() == ["method", "[1]", "[2]"]
    assert [line.split()[0] for line in lines[1:3]] == ["attention-rollout", "random"]
    assert lines[4:6] == ["[1] energy-inside ↑", "[2] pointing-game(tolerance=4) ↑"]
    table = pandas.read_csv(tmp_path / "table.csv")
    value = table.set_index(["method", "metric"]).loc[("attention-rollout", "energy-inside"), "value"]
    assert lines[1].split()[1] == f"{value:.2f}"
    maps = pandas.read_csv(tmp_path / "maps.csv").set_index("method")
    assert maps.loc["attention-rollout", "energy-inside"].mean() == pytest.approx(value)
    markdown = (tmp_path / "table.md").read_text("utf-8").splitlines()
    assert markdown[0] == "| method | energy-inside | pointing-game(tolerance=4) | blank | without a value |"
    assert markdown[2].startswith(f"| attention-rollout | {value:.3f} ±")
    assert r"\toprule" in (tmp_path / "table.tex").read_text("utf-8")
    assert list(pandas.read_csv(tmp_path / "costs.csv")["method"]) == ["attention-rollout", "random"]
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))["config"]
    assert (config["model"], config["data"], config["prompts"]) == ("scenes:vit", "scenes(length=6)", None)
    again = run(*options)
    assert again.stdout.splitlines()[:4] == lines[:4]
    changed = run(*options, "--seed", 3)
    assert changed.exit_code == 2
    assert "holds results with seed 0, got 3" in " ".join(changed.stderr.split())


def test_all_methods_and_the_metrics_that_fit_by_default(tmp_path):
    done = run("--dataset", "scenes(length=1)", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    table = pandas.read_csv(tmp_path / "table.csv")
    assert set(table["method"]) == {*METHODS, "random"}
    named = {each.split("(")[0] for each in table["metric"]}
    assert named == {"pointing-game", "energy-inside", "segmentation", "insertion", "deletion"}


def test_a_model_that_reads_texts_is_asked_for_the_classes(tmp_path):
    options = ["--dataset", "scenes(length=4)", "--method", "legrad", "--metric", METRICS, "-m", "scenes:clip"]
    done = run(*options, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    table = pandas.read_csv(tmp_path / "table.csv")
    assert table["value"][1] > 0.7
    asked = json.loads((tmp_path / "config.json").read_text("utf-8"))["config"]["prompts"]
    assert asked[:2] == ["a red circle", "a red square"]
    wrong = run(*options, "--template", "no place", "-o", tmp_path)
    assert wrong.exit_code == 2
    assert "template" in wrong.stderr


def test_prompts_beside_the_images(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (96, 96), "red").save(tmp_path / "images" / f"{name}.png")
        mask = Image.new("L", (96, 96))
        mask.paste(1, (0, 0, 48, 48))
        mask.save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    (tmp_path / "masks" / "c.png").write_bytes(b"no image")
    (tmp_path / "prompts.csv").write_text(
        "file,prompt\na.png,a red star\nb.png,a blue star\nc.png,a red star\n", "utf-8"
    )
    options = ["-m", "scenes:clip", "--dataset", f"masks:{tmp_path}", "--method", "legrad", "--metric", "energy-inside"]
    done = run(*options, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert list(pandas.read_csv(tmp_path / "out" / "maps.csv")["target"]) == [1, 0]
    assert "Skipped, since they can't be read: 1\n  c: " in done.stderr
    (tmp_path / "texts.txt").write_text("a red star\n\na green star\n", "utf-8")
    done = run(*options, "--prompts", tmp_path / "texts.txt", "-o", tmp_path / "other")
    assert done.exit_code == 0, done.output
    assert pandas.read_csv(tmp_path / "other" / "maps.csv")["target"][0] == 0
    assert (
        "Maps of the predicted class, since their regions have none of the model's: 1" in done.stderr
    )  # no prompt is blue


def test_sounds_are_asked_for_by_their_embeddings(tmp_path):
    write_ade20k(tmp_path, "ADE20KSoundPrompted", ADE20K_SOUND)
    size, generator = load_model("scenes:clip").model.text_projection.shape[1], np.random.default_rng(0)
    np.savez(tmp_path / "sounds.npz", **{name: generator.normal(size=size) for name in ("dog.wav", "cat.wav")})
    options = ["--model", "scenes:clip", "--method", "legrad", "--metric", "energy-inside", "-o", tmp_path / "results"]
    given = f"ade20k-sound(embeddings='{tmp_path / 'sounds.npz'}'):{tmp_path}"
    done = run("--dataset", given, *options)
    assert done.exit_code == 0, done.output
    outputs = Store(tmp_path / "results").about["outputs"]
    asked = {outputs[each["target"]] for each in Store(tmp_path / "results").records()}
    assert {Path(each).name for each in asked} == {"dog.wav", "cat.wav"}
    for more, message in (
        (("--dataset", f"ade20k-sound:{tmp_path}"), "regions must have an embedding, got none in sample"),
        (("--dataset", given, "--template", "a {}"), "stands around texts, and the dataset has sounds"),
    ):
        refused = run(*more, *options)
        assert refused.exit_code == 2
        assert message in " ".join(refused.stderr.replace("│", " ").split())


def test_layers_are_written_beside_the_table(tmp_path):
    options = ["--dataset", "scenes(length=4)", "--method", "random", "--metric", "sparseness", "--layers"]
    done = run(*options, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "| all | " in done.stdout
    table = pandas.read_csv(tmp_path / "layers.csv")
    assert table[table["class"] == "all"]["block"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_a_method_that_cannot_is_named_with_its_reason(tmp_path):
    methods = "captum:layer-grad-cam(layer='norm'),random"
    done = run("--dataset", "scenes(length=1)", "--method", methods, "--metric", "sparseness", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Left out: captum:layer-grad-cam(layer='norm'): " in done.stderr
    assert "must give maps (B, C, h, w)" in done.stderr


def test_a_convolutional_network_is_explained_by_methods_of_captum(tmp_path):
    model = ["--model", "timm:resnet18", "--untrained", "--image-size", 64]
    methods = "captum:layer-grad-cam(layer='layer2'),captum:saliency,legrad,random"
    data = ["--dataset", "scenes(length=2)", "--target", "predicted"]
    done = run(
        *model, "--method", methods, *data, "--metric", "energy-inside,deletion(steps=4, patch=(8, 8))", "-o", tmp_path
    )
    assert done.exit_code == 0, done.output
    table = pandas.read_csv(tmp_path / "table.csv").set_index(["method", "metric"])
    assert set(table.index.get_level_values("method")) == {
        "captum:layer-grad-cam(layer='layer2')",
        "captum:saliency",
        "random",
    }
    assert table["value"].between(0, 1).all()
    assert "Left out: legrad: " in done.stderr
    loaded = load_model("timm:resnet18", weights="untrained", image_size=(64, 64))
    subject = subject_of(loaded)
    sample = subject.geometry(dataset_of("scenes(length=1)")[0])
    image = subject.pixels(sample)[None]
    best = loaded.model(image).argmax(1)
    cam = LayerGradCam(loaded.model, loaded.model.layer2).attribute(image, target=best).detach()
    expected = energy_inside(upsample(cam, (64, 64))[:, 0], sample.regions[0].mask[None])
    maps = pandas.read_csv(tmp_path / "maps.csv").set_index("method")
    found = maps.loc["captum:layer-grad-cam(layer='layer2')", "energy-inside"].iloc[0]
    assert found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "scene"], "no dataset is called 'scene'. Did you mean scenes"),
        (["--dataset", "voc:nowhere"], "nowhere"),
        (["--method", "legard"], "no method is called 'legard'. Did you mean legrad"),
        (["--method", "captum:salience"], "no method of Captum is called 'salience'. Did you mean saliency"),
        (["--method", "gmar(norm='l3')"], "norm must be 'l1' or 'l2', got 'l3'"),
        (["--method", "gmar(norm='l2'"], "brackets and quotation marks must be closed"),
        (["--metric", "pointing"], "no metric is called 'pointing'. Did you mean pointing-game"),
        (["--metric", "point-miou"], "point-miou can't be measured: it needs points, which the dataset does not have"),
        (
            ["--model", "timm:test_vit", "--untrained"],
            "the 64 classes of the dataset must be among those of timm:test_vit",
        ),
        (["--template", "a {}"], "scenes:vit reads no texts"),
        (["--memory-limit", "4"], "must be a number with KB, MB, GB, KiB, MiB or GiB, for example 4GB, got '4'"),
        (["--memory-limit", "1KB"], "memory_limit must be at least"),
        (["--limit", "0"], "limit must be at least 1, got 0"),
        (["--precision", "int8"], "int8"),
        (["--device", "tpu"], "'tpu' can't be used here"),
        (["--untrained", "--checkpoint", "x.pth"], "can't go together with --checkpoint"),
    ],
)
def test_what_can_not_be_done_is_refused(options, message, tmp_path):
    given = {"--dataset": "scenes(length=1)", "--method": "attention-rollout", "--metric": "sparseness"}
    rest = [part for name, value in given.items() if name not in options for part in (name, value)]
    done = run(*rest, *options, "-o", tmp_path)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_table_of_a_paper(tmp_path):
    options = ["--protocol", "faf-baf", "--dataset", "scenes(length=2)", "-o", tmp_path]
    done = run(*options, "--choice", "residual=0.5")
    assert done.exit_code == 0, done.output
    table = pandas.read_csv(tmp_path / "protocol.csv")
    assert set(table["method"]) == {"Attention Rollout", "Gradient Attention Rollout"}
    assert table["ours"].notna().all()
    assert done.stdout.startswith((tmp_path / "protocol.md").read_text("utf-8"))
    assert "residual = 0.5" in done.stdout
    assert "DeiT-Tiny is replaced by scenes:vit at 96×96" in done.stdout


def test_a_table_of_a_paper_on_other_data_and_another_model(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.effect_noise((96, 96), 90).convert("RGB").save(tmp_path / "images" / "a.png")
    mask = Image.new("L", (96, 96))
    mask.paste(1, (0, 0, 48, 48))
    mask.save(tmp_path / "masks" / "a.png")
    options = ["--protocol", "faf-baf", "--dataset", f"masks:{tmp_path}", "--model", "scenes:vit"]
    done = run(*options, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert pandas.read_csv(tmp_path / "out" / "protocol.csv")["ours"].between(0, 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "legrad-table-11"], "no protocol is called 'legrad-table-11'. Did you mean legrad-table-1"),
        (["--protocol", "faf-baf", "--metric", "insertion"], "fixes methods, metrics and prompts"),
        (["--protocol", "faf-baf", "--choice", "residual"], "must be NAME=VALUE, got 'residual'"),
        (["--protocol", "faf-baf", "--choice", "colour=1"], "choices of faf-baf must be among"),
        (["--protocol", "faf-baf", "--dataset", "scene"], "no dataset is called 'scene'"),
        (["--protocol", "faf-baf", "--dataset", "imagenet:nowhere"], "nowhere"),
        (["--choice", "residual=0.5"], "goes with --protocol"),
        (["--dataset", "scenes", "--dataset", "scenes"], "must be one, unless there is a --protocol"),
    ],
)
def test_what_no_table_can_be_made_of_is_refused(options, message, tmp_path):
    done = run(*options, "-o", tmp_path)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_limit_of_the_memory_finds_the_batch_size(tmp_path):
    options = ["--dataset", "scenes(length=2)", "--method", "attention-rollout", "--metric", "sparseness"]
    done = run(*options, "--memory-limit", "2GB", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["about"]["unit"] == 64


def test_a_full_disk_ends_it_and_keeps_what_was_finished(tmp_path, monkeypatch):
    options = ["--dataset", "scenes(length=24)", "--method", "random", "--metric", "sparseness", "-o", tmp_path]
    calls, sync = [], os.fsync

    def full(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr("os.fsync", full)
    done = run(*options)
    assert done.exit_code == 1
    assert f"{tmp_path} can't be written: No space left on device. What was finished is kept there." in done.stderr
    assert 0 in Store(tmp_path).units()
    monkeypatch.undo()
    again = run(*options)
    assert again.exit_code == 0
    assert len({each["sample"] for each in Store(tmp_path).records()}) == 24


def wait_for_units(folder, count, process):
    while not (folder / "config.json").exists() or len(Store(folder).units()) < count:
        assert process.poll() is None, "it ended before it could be stopped"


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_finished_and_ends_with_130(tmp_path):
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell makes its background jobs deaf to it
    with subprocess.Popen(
        [sys.executable, *command(tmp_path, 4000)], stderr=subprocess.PIPE, text=True, preexec_fn=listening
    ) as running:
        wait_for_units(tmp_path, 1, running)
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"Interrupted. What was finished is in {tmp_path}; the same command goes on from there." in error
    assert "Traceback" not in error
    assert len(Store(tmp_path).units()) >= 1


@pytest.mark.slow
def test_two_processes_one_of_them_killed_print_what_one_prints(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*launch, *command(parts, 64, "--layers")], env=environment, **silent)
    wait_for_units(parts, 2, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    assert len(Store(parts).units()) < 8
    again = subprocess.run(
        [*launch, *command(parts, 64, "--layers")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=environment,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = run(*command(whole, 64, "--layers")[3:])
    finally:
        torch.set_num_threads(threads)
    assert scores(parts) == scores(whole)
    assert again.stdout.splitlines()[:4] == alone.stdout.splitlines()[:4]
    assert Store(parts / "layers").records() == Store(whole / "layers").records()
    tables = [
        done.stdout[done.stdout.index("| class |") : done.stdout.index("Regions left out")] for done in (again, alone)
    ]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_two_processes_print_the_protocol_of_parts_that_one_prints(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    asked = ["evaluate", "--protocol", "legrad-table-10", "--dataset", "scenes(length=5)", "-o"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "check": True, "timeout": 300, "env": environment}
    shared = subprocess.run([*launch, "-m", "captum_vit.cli", *asked, str(tmp_path / "two")], **options)
    alone = subprocess.run([sys.executable, "-m", "captum_vit.cli", *asked, str(tmp_path / "one")], **options)
    assert shared.stdout.splitlines()[:-1] == alone.stdout.splitlines()[:-1]
    assert len(list((tmp_path / "two" / "parts").glob("*.jsonl"))) == 2
