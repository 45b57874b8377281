from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from captum_vit.zoo.weights import answers, hub, load_strictly, random_weights, read_state_dict

STATE = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}


@pytest.fixture
def server():
    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    running = HTTPServer(("127.0.0.1", 0), NotFound)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_answers_even_with_an_error(server):
    assert answers(server)


def test_nobody_answers_on_a_closed_port(server):
    assert not answers("http://127.0.0.1:1/")


def test_the_offline_flag_is_set_inside_and_restored(monkeypatch, server):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")

    def fail_inside():
        with hub() as reachable:
            assert (reachable, constants.is_offline_mode()) == (False, True)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert not constants.is_offline_mode()
    monkeypatch.setattr(constants, "ENDPOINT", server)
    with hub() as reachable:
        assert (reachable, constants.is_offline_mode()) == (True, False)


def test_nobody_is_asked_when_the_user_is_offline_or_works_on_files(monkeypatch):
    def never(url):
        raise AssertionError(url)

    monkeypatch.setattr("captum_vit.zoo.weights.answers", never)
    with hub() as reachable:  # the folder's fixture sets HF_HUB_OFFLINE
        assert (reachable, constants.is_offline_mode()) == (False, True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub(needed=False) as reachable:
        assert (reachable, constants.is_offline_mode()) == (True, False)


def test_random_weights_depend_on_the_seed_and_leave_the_callers_numbers():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with random_weights(1):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with random_weights(1):
        assert torch.equal(torch.rand(2), first)
    with random_weights(2):
        assert not torch.equal(torch.rand(2), first)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_torch_file_gives_its_weights_by_name(tmp_path, wrap, prefix):
    state = {prefix + name: weight for name, weight in STATE.items()}
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, tmp_path / "a.pth")
    torch.testing.assert_close(read_state_dict(tmp_path / "a.pth"), STATE, rtol=0, atol=0)


def test_averaged_weights_come_first(tmp_path):
    other = {name: weight + 1 for name, weight in STATE.items()}
    torch.save({"state_dict": other, "state_dict_ema": STATE}, tmp_path / "a.pth")
    torch.testing.assert_close(read_state_dict(tmp_path / "a.pth"), STATE, rtol=0, atol=0)


def test_a_safetensors_file_gives_its_weights_by_name(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    torch.testing.assert_close(read_state_dict(tmp_path / "a.safetensors"), STATE, rtol=0, atol=0)


def test_files_that_hold_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be a file, got '.*nowhere\.pth'"):
        read_state_dict(tmp_path / "nowhere.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("these are no weights")
    with pytest.raises(ValueError, match=r"text\.safetensors is no safetensors file: "):
        read_state_dict(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match=r"text\.pth can't be read with weights_only=True: "):
        read_state_dict(tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match=r"epoch\.pth must hold weights by name .* got dict"):
        read_state_dict(tmp_path / "epoch.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match=r"tensor\.pth must hold weights by name .* got Tensor"):
        read_state_dict(tmp_path / "tensor.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("file", ["a.safetensors", "a.pth"])
def test_weights_that_are_no_numbers_are_refused(file, value, tmp_path):
    state = STATE | {"bias": torch.tensor([value]), "count": torch.tensor([7])}
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)
    with pytest.raises(ValueError, match=rf"{file} must hold finite weights, got NaN or infinity in bias\."):
        read_state_dict(tmp_path / file)


def test_a_pickled_model_is_not_unpickled(tmp_path):
    torch.save(nn.Linear(2, 1), tmp_path / "model.pth")
    with pytest.raises(
        ValueError, match=r"model\.pth can't be read with weights_only=True: .*torch\.save\(model\.state"
    ):
        read_state_dict(tmp_path / "model.pth")


def test_weights_are_loaded_whole_or_not_at_all():
    model = nn.Linear(2, 1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    wrong = {"weight": torch.ones(1, 2), "bias": torch.ones(4), "extra": torch.ones(1)}
    with pytest.raises(
        ValueError,
        match=r"checkpoint a\.pth does not fit Linear: 1 not in the model \(extra\); "
        r"1 of another shape \(bias \(4,\) for \(1,\)\)",
    ):
        load_strictly(model, wrong, "a.pth")
    with pytest.raises(ValueError, match=r"1 missing \(bias\)\."):
        load_strictly(model, {"weight": torch.ones(1, 2)}, "a.pth")
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    load_strictly(model, STATE, "a.pth")
    torch.testing.assert_close(dict(model.state_dict()), STATE, rtol=0, atol=0)
