"""Kernels that reduce a map as they form it, against the same sums in PyTorch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import fused_cases
import pytest
import torch
from torch import Tensor

from captum_vit.adapters import AttentionRecord, fused
from captum_vit.adapters.fused import Product, Softmax, product_sums, softmax_sums

TESTS = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def product() -> Product:
    return Product(draw(1, 2, 5, 4), draw(1, 2, 7, 4, seed=1))


def ran_with_triton(script: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, str(TESTS / script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def check(differences: list[fused_cases.Difference]) -> None:
    assert len(differences) > 75
    assert [each for each in differences if not each.error < fused_cases.TOLERANCE] == []
    assert [each for each in differences if not each.launches] == []


@needs_triton
def test_the_interpreter_gives_what_pytorch_gives():
    found = json.loads(ran_with_triton("fused_cases.py", TRITON_INTERPRET="1"))
    check([fused_cases.Difference(**each) for each in found])


@needs_triton
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_pytorch_gives():
    check(list(fused_cases.differences("cuda")))


@needs_triton
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """A program's shared memory stays below the 99 KiB of the smallest GPUs from 8.0 on."""
    kernels = json.loads(ran_with_triton("fused_compiled.py", TRITON_CACHE_DIR=str(tmp_path)))
    assert {each["capability"] for each in kernels} == {80, 90}
    assert [each for each in kernels if each["shared"] > 99 * 1024] == []


def test_on_a_cpu_pytorch_sums(product, monkeypatch):
    monkeypatch.setattr(fused, "_launch", None)
    assert product_sums(product, "positive") is None
    assert softmax_sums(draw(1, 5), Softmax(product, 1.0, None)) is None


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """The names of kernels that would run on this device, if it were one that Triton knows."""
    names: list[str] = []
    monkeypatch.setattr(fused, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(fused, "_has_triton", lambda: True)
    monkeypatch.setattr(fused, "_launch", lambda name, *args, **options: names.append(name))
    return names


def test_what_the_kernels_take(product, launched):
    softmax = Softmax(product, 1.0, draw(7))
    assert product_sums(product, "square").shape == (1, 2, 7)
    assert softmax_sums(draw(1, 5), softmax).shape == (1, 2, 7)
    assert softmax_sums(draw(1, 5), softmax, product).dtype == torch.float32
    assert launched == ["product_sums", *["softmax_normalisers", "softmax_sums"] * 2]


def refused(product: Product) -> dict[str, Product]:
    left, right = product.left, product.right
    return {
        "float64": Product(left.double(), right.double()),
        "two dtypes": Product(left.half(), right),
        "wide heads": Product(draw(1, 2, 5, 129), draw(1, 2, 7, 129)),
        "no channels": Product(left[..., :0], right[..., :0]),
        "other channels": Product(left[..., :3], right),
        "other heads": Product(left, right[:, :1]),
        "no image": Product(left[:0], right[:0]),
        "another device": Product(left.to("meta"), right.to("meta")),
    }


@pytest.mark.parametrize("why", refused(Product(draw(1, 2, 5, 4), draw(1, 2, 7, 4))))
def test_what_is_left_to_pytorch(product, launched, why):
    other = refused(product)[why]
    assert product_sums(other, "plain") is None
    assert softmax_sums(draw(1, 5), Softmax(other, 1.0, None)) is None
    assert softmax_sums(draw(1, 5), Softmax(product, 1.0, None), other) is None
    assert launched == []


def test_what_else_is_left_to_pytorch(product, launched):
    softmax = Softmax(product, 1.0, None)
    assert product_sums(None, "plain") is None
    assert product_sums(softmax, "plain") is None
    assert softmax_sums(draw(1, 5), None) is None
    assert softmax_sums(draw(1, 5), product) is None
    assert softmax_sums(draw(1, 5), softmax, None) is None
    assert softmax_sums(draw(1, 5), softmax, softmax) is None
    assert softmax_sums(draw(1, 5), softmax, replace(product, left=product.left[:, :, :4])) is None
    assert softmax_sums(draw(1, 5).double(), softmax) is None
    assert softmax_sums(draw(1, 2, 5), softmax) is None
    assert softmax_sums(draw(1, 5), replace(softmax, bias=draw(7).double())) is None
    assert launched == []


def test_old_gpus_and_missing_triton_are_left_to_pytorch(product, launched, monkeypatch):
    monkeypatch.setattr(fused, "_is_capable", lambda device: False)
    assert product_sums(product, "plain") is None
    monkeypatch.undo()
    monkeypatch.setattr(fused, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    assert product_sums(product, "plain") is None


@pytest.mark.parametrize(("capability", "is_enough"), [((7, 5), False), ((8, 0), True), ((12, 1), True)])
def test_a_gpu_is_asked_for_its_capability(monkeypatch, capability, is_enough):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fused._is_capable.__wrapped__(torch.device("cuda", 1)) is is_enough


def test_the_switch(product, launched, monkeypatch):
    monkeypatch.setenv("CAPTUM_VIT_TRITON", "0")
    assert product_sums(product, "plain") is None
    monkeypatch.setenv("CAPTUM_VIT_TRITON", "1")
    assert product_sums(product, "plain") is not None
    monkeypatch.setenv("CAPTUM_VIT_TRITON", "off")
    with pytest.raises(ValueError, match="CAPTUM_VIT_TRITON must be 0 or 1, got 'off'"):
        product_sums(product, "plain")


def test_a_wrong_switch_is_refused_on_any_device(product, monkeypatch):
    monkeypatch.setenv("CAPTUM_VIT_TRITON", "yes")
    with pytest.raises(ValueError, match="CAPTUM_VIT_TRITON must be 0 or 1, got 'yes'"):
        product_sums(product, "plain")
    with pytest.raises(ValueError, match="CAPTUM_VIT_TRITON must be 0 or 1, got 'yes'"):
        softmax_sums(torch.ones(1, 1), None)


def test_tiles_are_powers_of_two():
    assert [fused._lanes(torch.empty(1, 1, 1, width)) for width in (1, 16, 17, 64, 65, 104, 128)] == [
        *(16, 16, 32, 64, 128, 128, 128)
    ]


def test_a_record_without_values_has_no_gradient(launched):
    record = AttentionRecord(*(draw(1, 2, 5, 4, seed=seed) for seed in range(4)), scale=0.5).without_values()
    with pytest.raises(RuntimeError):
        record.gradient_sums(draw(1, 2, 5, 4))
