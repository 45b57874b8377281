"""What a notebook shows of models, methods and results."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from typing import get_args, get_type_hints

import pytest
import torch
from cases import ALL_FAMILIES, case

from captum_vit import (
    METHODS,
    BackgroundSuppression,
    LeGrad,
    LibraGrad,
    MaskedSinks,
    PromptClassifier,
    TestTimeRegisters,
    adapt,
)
from captum_vit.evaluation import Result
from captum_vit.evaluation.distribution import LayerDistribution
from captum_vit.metrics import EnergyInside
from captum_vit.zoo import load_model

OPTIONS = {
    "baseline": torch.zeros(3, 48, 80, dtype=torch.float64),
    "blocks": (0, 1),
    "block": 0,
    "dtype": torch.float32,
    "discard_ratio": 0.9,
    "projections": ("key",),
}
"""A value of each option that is neither a number, a flag nor one of a few words, and not its default."""

MODEL = "TimmAdapter(timm VisionTransformer, 3 blocks, grid 3×5 at 48×80, 1 prefix token, class pooling, 10 outputs)"


@cache
def method(name, **options):
    return METHODS[name](case("timm_vit").model, **options)


def other(name, default, hint):
    """A value that is not the default."""
    if name in OPTIONS:
        return OPTIONS[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return next(each for each in get_args(hint) if each != default)
    return 1 if default in (None, 0) else default / 2 if isinstance(default, float) else default + 1


@pytest.mark.parametrize("name", METHODS)
def test_a_method_shows_its_model_and_only_the_options_that_differ(name):
    shown = f"{METHODS[name].__name__}({MODEL})"
    assert repr(method(name)) == shown
    hints = get_type_hints(METHODS[name].__init__)
    for option in inspect.signature(METHODS[name]).parameters.values():
        if option.default is option.empty:
            continue
        value = other(option.name, option.default, hints[option.name])
        changed = repr(METHODS[name](case("timm_vit").model, **{option.name: value}))
        text = "Tensor(3, 48, 80)" if isinstance(value, torch.Tensor) else repr(value)
        assert changed.startswith(shown[:-1]), changed
        assert f"{option.name}={text}" in changed or f"{option.name}=[0, 1]" in changed
        assert repr(METHODS[name](case("timm_vit").model, **{option.name: option.default})) == shown


def test_an_option_that_is_changed_later_is_shown():
    changed = LeGrad(case("timm_vit").model, blocks=[-1])
    changed.relu = False
    assert repr(changed) == f"LeGrad({MODEL}, blocks=[2], relu=False)"


def test_wrappers_show_the_method_inside():
    inner = method("legrad")
    assert repr(LibraGrad(inner)) == f"LibraGrad(LeGrad({MODEL}))"
    assert repr(MaskedSinks(inner, factor=2.0, block=2)) == f"MaskedSinks(LeGrad({MODEL}), factor=2.0)"
    registers = TestTimeRegisters(inner, [(0, 3)], registers=2)
    assert repr(registers) == f"TestTimeRegisters(LeGrad({MODEL}), neurons=[(0, 3)], registers=2)"


def test_prompts_are_shown():
    loaded = load_model("scenes:clip")
    texts = ["a red star", "a blue ring"]
    classifier = PromptClassifier(loaded.model, loaded.load_tokenizer(), texts, template="a photo of {}.")
    shown = (
        "PromptClassifier(OpenCLIP CLIP with prompts, 6 blocks, grid 12×12 at 96×96, 1 prefix token, class pooling, "
        "2 prompts ['a red star', 'a blue ring'], template 'a photo of {}.')"
    )
    assert repr(classifier) == shown
    suppressed = BackgroundSuppression(LeGrad(classifier))
    assert repr(suppressed) == f"BackgroundSuppression(LeGrad({shown}))"
    embedding = suppressed.embedding
    given = BackgroundSuppression(LeGrad(classifier), embedding=embedding, threshold=0.5)
    assert repr(given) == f"BackgroundSuppression(LeGrad({shown}), embedding=Tensor(128,), threshold=0.5)"
    classifier.prompts = [f"prompt {number}" for number in range(1000)]
    assert "1000 prompts ['prompt 0', " in repr(classifier)
    assert len(repr(classifier)) < 400


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_an_adapter_shows_what_it_detected(family):
    tiny = case(family)
    adapter = adapt(tiny.model)
    shown = repr(adapter)
    assert shown.startswith(f"{type(adapter).__name__}({adapter.family}, 3 blocks, ")
    if "naflex" in family:
        assert adapter.native_size is None
        assert "grid" not in shown
    else:
        height, width = adapter.native_size
        assert f"grid {height // 16}×{width // 16} at {height}×{width}" in shown
    assert f"{adapter.num_prefix_tokens} prefix token" in shown
    assert shown.endswith(("10 outputs)", "3 prompts ['a star', 'a ring', 'a cat'])"))


def test_a_size_without_a_grid_does_not_break_the_repr():
    adapter = adapt(case("hf_dinov2").model)
    adapter._config = type("Config", (), {"patch_size": 16, "image_size": 50})
    assert ", no grid at 50×50, " in repr(adapter)


def test_a_loaded_model_shows_in_one_line():
    names = "['red circle', 'red square', 'red triangle', 'red star', 'red cross', 'red ring', ...]"
    assert repr(load_model("scenes:vit")) == (
        f"LoadedModel(scenes:vit: VisionTransformer, images 96×96, classes {names})"
    )
    assert repr(load_model("scenes:clip", weights="untrained")).endswith(", embedding, UNTRAINED WEIGHTS)")


def record(name, value):
    scores = {"energy": {"total": value, "images": 1, "excluded": 0}}
    return {"sample": "a", "region": 0, "label": 1, "target": 1, "method": name, "seconds": 1.0, "scores": scores}


def test_a_result_shows_its_table():
    skipped = {"sample": "b", "skipped": "broken"}
    result = Result([record("first", 0.25), record("<b>", 0.5), skipped], {"energy": EnergyInside()}, {"third": "why"})
    counts = "Result: 2 methods, 2 maps of 1 samples, 1 skipped, 1 methods that can't explain the model"
    assert repr(result).splitlines() == [counts, "method   [1]", "first   0.25", "<b>     0.50", "", "[1] energy ↑"]
    assert result._repr_markdown_() == result.markdown()
    assert result._repr_html_() == (
        f"<p>{counts.replace(chr(39), '&#x27;')}</p><table><thead><tr><th>method</th><th>energy</th><th>blank</th>"
        "<th>without a value</th></tr></thead><tbody><tr><td>first</td><td>0.250</td><td>0</td><td>0</td></tr>"
        "<tr><td>&lt;b&gt;</td><td>0.500</td><td>0</td><td>0</td></tr></tbody></table>"
    )


def test_a_result_without_scores_shows_what_it_has():
    empty = Result([{"sample": "b", "skipped": "broken"}], {"energy": EnergyInside()}, {})
    assert repr(empty) == "Result: 0 methods, 0 maps of 0 samples, 1 skipped\nno scores"
    assert empty._repr_markdown_() == "Result: 0 methods, 0 maps of 0 samples, 1 skipped"
    assert empty._repr_html_() == "<p>Result: 0 methods, 0 maps of 0 samples, 1 skipped</p>"


def test_a_layer_distribution_shows_its_table():
    made = LayerDistribution("a model", torch.tensor([[0.0, 1.0]]), ["a"], [None], (), "image", {}, {})
    assert repr(made) == "LayerDistribution: a model, 1 maps over 2 blocks, 0 classes"
    assert made._repr_markdown_() == made.markdown()
    assert repr(replace(made, relevance=torch.empty(0, 2), samples=[], labels=[])).startswith("LayerDistribution: ")
