"""``captum-vit app``, started as a user starts it and asked by a real client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from captum_vit.cli import app
from captum_vit.data import CLASSES, Scenes

pytestmark = pytest.mark.slow  # a server is started, with the models

PROMPTS = ["a red star", "a blue ring"]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The page of a server that takes images of at most 0.1 MB and 0.04 megapixels, and leaves none behind."""
    folder = tmp_path_factory.mktemp("uploads")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "captum_vit.cli", "app", "--port", str(port), "--max-mb", "0.1"]
    command += ["--max-megapixels", "0.04", "--model", "timm:test_vit", "--untrained"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell makes its background jobs deaf to it
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=listening) as server:
        line = server.stdout.readline()
        assert line == f"Open http://127.0.0.1:{port} in a browser; Ctrl-C ends it.\n"
        yield f"http://127.0.0.1:{port}/"
        assert [each for each in folder.glob("captum-vit-*/**/*") if each.name == "photo.png"]
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
    assert list(folder.glob("captum-vit-*")) == []


@pytest.fixture(scope="module")
def client(url):
    from gradio_client import Client

    with_client = Client(url, verbose=False, analytics_enabled=False)
    yield with_client
    with_client.close()


def explain(client, *arguments):
    """Of a file or a scene, a model, a method, what is asked, whether by block."""
    file, scene, model, method, asked, by_block = arguments
    return client.predict(file, scene, model, method, asked, 0.7, by_block, api_name="/explain")


def refusal(client, *arguments):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as refused:
        explain(client, *arguments)
    return str(refused.value)


def test_a_scene_is_explained(client):
    picture, scores, notes, blocks = explain(client, None, "scene:7", "scenes:vit", "legrad", "", True)
    objects = Scenes(8)[7].objects
    assert scores["headers"] == ["asked", "logit"]
    assert [row[0] for row in scores["data"]] == [f"{each.label} {CLASSES[each.label]}" for each in objects]
    assert notes == "By block: LeGrad's map of each block; their mean is its map. Each map is scaled by itself."
    for path in (picture, blocks):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(10**6)) > 1000


def test_an_uploaded_image_and_prompts(client, tmp_path):
    from gradio_client import handle_file

    Image.effect_noise((120, 100), 60).convert("RGB").save(tmp_path / "photo.png")
    file = handle_file(tmp_path / "photo.png")
    _, scores, notes, blocks = explain(client, file, "scene:0", "scenes:siglip", "gmar", "\n".join(PROMPTS), False)
    assert [row[0] for row in scores["data"]] == PROMPTS
    assert (notes, blocks) == ("", None)
    preview = client.predict(file, "scene:0", api_name="/preview")
    with Image.open(preview) as image, Image.open(tmp_path / "photo.png") as original:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(original))


def test_a_model_that_was_named_at_the_start(client):
    *_, notes, _ = explain(client, None, "scene:0", "timm:test_vit", "attention-rollout", "", False)
    assert notes == "No class was asked for: this is the predicted one."
    methods, asked = client.predict("scenes:siglip", "text-span", api_name="/choose")
    assert methods["value"] == "raw-attention"
    assert "text-span" not in [name for _, name in methods["choices"]]
    assert asked["label"] == "Prompts, one per line"


def test_files_that_are_no_images_and_images_that_are_too_large_are_refused(client, url, tmp_path):
    from gradio_client import handle_file

    (tmp_path / "notes.png").write_text("<script>not an image</script>")
    Image.new("RGB", (400, 101)).save(tmp_path / "many.png")
    (tmp_path / "large.png").write_bytes(b"0" * 100_001)
    notes = refusal(client, handle_file(tmp_path / "notes.png"), "scene:0", "scenes:vit", "legrad", "", False)
    assert notes == "The image must be in one of the formats PNG, JPEG, WEBP, GIF, BMP, TIFF, got notes.png."
    many = refusal(client, handle_file(tmp_path / "many.png"), "scene:0", "scenes:vit", "legrad", "", False)
    assert many == "The image must have at most 0.04 megapixels, got 400×101 = 0.0404."
    with pytest.raises(ValueError, match=r"large\.png exceeds the maximum file size of 100000 bytes"):
        explain(client, handle_file(tmp_path / "large.png"), "scene:0", "scenes:vit", "legrad", "", False)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
    body = head + b"0" * 100_001 + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    upload = urllib.request.Request(f"{url}gradio_api/upload", body, kind)  # by no client of Gradio
    with pytest.raises(urllib.error.HTTPError, match="413") as refused:
        urllib.request.urlopen(upload, timeout=30)
    refused.value.close()


def test_questions_that_make_no_sense_are_refused_as_text(client):
    assert refusal(client, None, "scene:0", "scenes:vit", "legrad", "<b>1</b>", False) == (
        "Classes: no class of scenes:vit is called '&lt;b&gt;1&lt;/b&gt;'. The nearest: none."
    )
    assert "scene:0/../../x is not in the list of choices" in refusal(
        client, None, "scene:0/../../x", "scenes:vit", "legrad", "", False
    )
    assert "hf:elsewhere is not in the list of choices" in refusal(
        client, None, "scene:0", "hf:elsewhere", "legrad", "", False
    )


def test_nothing_is_counted_shared_or_fetched_from_elsewhere(client, url):
    assert client.config["analytics_enabled"] is False
    with urllib.request.urlopen(url, timeout=30) as page:
        text = page.read().decode()
    loaded = [
        part.split('"')[0] for start in ('<script src="', 'rel="stylesheet" href="') for part in text.split(start)[1:]
    ]
    assert [each for each in loaded if each.startswith(("http", "//")) and not each.startswith(url[:-1])] == []
    assert "fonts.googleapis" not in text


def test_only_this_machine_is_listened_to(url):
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()  # an address of this machine that is not bound


def test_a_port_that_is_taken(url):
    port = url.rstrip("/").rpartition(":")[2]
    result = CliRunner().invoke(app, ["app", "--port", port])
    assert result.exit_code == 2
    assert f"127.0.0.1:{port} can't be served at: Address already in use" in " ".join(result.stderr.split())


def test_without_gradio_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "before")
    monkeypatch.setenv("GRADIO_RUN_HISTORY", "before")
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app"])
    assert result.exit_code == 2
    assert 'the app needs Gradio. Install it: pip install "captum-vit[app]".' in " ".join(result.stderr.split())
