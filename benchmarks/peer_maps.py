"""How far maps are from those of the packages that people come from: ``python benchmarks/peer_maps.py``.

The packages' own maps are the arrays of tests/golden/, computed with their code in float64, one image at a time, on
small models with random weights. Writes results/peer_maps.csv, which docs/moving.md shows: for each call, the largest
difference of the maps over their largest magnitude, as the package has it and where needed with its faults repaired.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

from environments import HERE
from torch import Tensor

from captum_vit import (
    LRP,
    AttentionRollout,
    AttnLRP,
    CheferCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradientRollout,
    HiResCAM,
    LayerCAM,
    LeGrad,
    PartialLRP,
    PromptClassifier,
    TransformerAttribution,
    ViTAttribution,
)

sys.path.insert(0, str(HERE.parent / "tests"))
import golden

AS_IT_IS = "as it is"
REPAIRED = "rows divided by their own sums"
IN_ORDER = "gradients in order"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        package: whose map it is.
        theirs: what was called.
        ours: the call here.
        version: as the package has it, or repaired.
        difference: max|a − b| / max|b|.
    """

    package: str
    theirs: str
    ours: str
    version: str
    difference: float


@dataclass(frozen=True)
class Call:
    """A call of a package on a classifier, and ours.

    Attributes:
        package: whose.
        theirs: what was called.
        method: ours.
        options: of ours.
        case: of tests/golden.
        arrays: the package's map, and where it exists the repaired one.
        pixels: whether maps are compared pixel by pixel.
        scaled: whether maps are compared after division by their maximum.
        model: of tests/golden.
    """

    package: str
    theirs: str
    method: type[ViTAttribution]
    options: dict[str, object]
    case: str
    arrays: Sequence[tuple[str, str]] = ((AS_IT_IS, "map64"),)
    pixels: bool = False
    scaled: bool = False
    model: str = "vit_a"

    def rows(self) -> Iterator[Row]:
        """A row for each of the arrays."""
        model, images, target = golden.vit(self.model)
        method = self.method(model, **self.options)
        if self.pixels:
            ours = method.attribute(images, target=target).sum(1)
        else:
            ours = method.attribute(images, target=target, resolution="patch")[:, 0]
        for version, array in self.arrays:
            theirs = golden.arrays(self.case)[array]
            pair = [each / each.amax((1, 2), keepdim=True) if self.scaled else each for each in (ours, theirs)]
            yield Row(self.package, self.theirs, written(self.method, self.options), version, off(*pair))


def written(method: type[ViTAttribution], options: dict[str, object], suffix: str = "") -> str:
    """A call as one writes it."""
    return f"{method.__name__}({', '.join(['model', *(f'{key}={value!r}' for key, value in options.items())])}){suffix}"


def off(ours: Tensor, theirs: Tensor) -> float:
    """max|a − b| / max|b|."""
    return golden.relative_error(ours, theirs.double())


def rollouts() -> Iterator[Call]:
    """vit-explain's attention rollout: its columns are divided by the sums of rows."""
    for fusion in ("mean", "max", "min"):
        for discard in (0.0, 0.9):
            case = f"rollout_vitexplain_{fusion}_d{discard}_vit_a"
            theirs = f"VITAttentionRollout(head_fusion={fusion!r}, discard_ratio={discard})"
            options: dict[str, object] = {"head_fusion": fusion, "discard_ratio": discard}
            call = partial(Call, "vit-explain", theirs, AttentionRollout, options, case)
            yield call(((AS_IT_IS, "map64"), (REPAIRED, "map_rownorm_nonofficial64")), scaled=True)


def classifiers() -> Iterator[Call]:
    """Everything that explains a plain classifier."""
    yield from rollouts()
    for discard in (0.0, 0.9):
        case, theirs = f"gradrollout_vitexplain_d{discard}_vit_a", f"VITAttentionGradRollout(discard_ratio={discard})"
        versions = ((AS_IT_IS, "map_unnorm64"), (IN_ORDER, "map_aligned_unnorm64"))
        yield Call("vit-explain", theirs, GradientRollout, {"discard_ratio": discard}, case, versions, scaled=True)
    explainability = partial(Call, "Transformer-Explainability")
    for start in (0, 1):
        theirs = f'LRP.generate_LRP(method="transformer_attribution", start_layer={start})'
        options = {"start_block": start}
        yield explainability(theirs, TransformerAttribution, options, f"chefer2020_ta_s{start}_vit_a")
        rollout, case = f"Baselines.generate_rollout(start_layer={start})", f"rollout_chefer_s{start}_vit_a"
        yield explainability(rollout, AttentionRollout, options, case)
    without = {"gradients": False}
    yield explainability('LRP.generate_LRP(method="rollout")', TransformerAttribution, without, "lrp_rollout_vit_a")
    last, full = (f'LRP.generate_LRP(method="{name}"), ViT_orig_LRP' for name in ("last_layer", "full"))
    yield explainability(last, PartialLRP, {}, "lrp_partial_orig_vit_a")
    yield explainability(full, LRP, {"rules": "original"}, "lrp_full_orig_vit_a", pixels=True)
    yield Call("Transformer-MM-Explainability", "generate_relevance, ViT", CheferCAM, {}, "chefer2021_generic_vit_a")
    cams: dict[str, tuple[type[ViTAttribution], dict[str, object]]] = {
        "GradCAM": (GradCAM, {}),
        "GradCAMPlusPlus": (GradCAMPlusPlus, {"stabiliser": 1e-6}),
        "HiResCAM": (HiResCAM, {}),
        "LayerCAM": (LayerCAM, {}),
    }
    for name, (method, options) in cams.items():
        case = f"pgc_{name.lower()}_vit_a"
        yield Call("pytorch-grad-cam", f"{name}, target_layers=[blocks[-1].norm1]", method, options, case)
    registers = "GradCAM, with 4 register tokens"
    yield Call("pytorch-grad-cam", registers, GradCAM, {}, "pgc_gradcam_vit_reg", model="vit_reg")
    composites = {"plain": {}, "gamma_c0.25_l0.05": {"patch_gamma": 0.25, "gamma": 0.05, "epsilon": 1e-6}}
    for case, rules in composites.items():
        theirs = "no composite" if case == "plain" else "Gamma(0.25) for convolutions, Gamma(0.05) for linear layers"
        yield Call("lxt", theirs, AttnLRP, {"variant": "cp-lrp", **rules}, f"attnlrp_{case}_vit_a", pixels=True)


def prompted() -> Iterator[Row]:
    """Everything that explains a prompt."""
    clip, inputs = golden.two_tower("clip_a")
    classifier = PromptClassifier(clip, embeddings=inputs["text_features64"])
    for start in (-1, 0):
        theirs = golden.arrays(f"chefer_clip_sl{start}_p3_clip_a")["map64"]
        ours = CheferCAM(classifier, start_block=start).attribute_targets(inputs["x"], range(3))[:, :, 0]
        call = written(CheferCAM, {"start_block": start})
        yield Row(
            "Transformer-MM-Explainability", f"interpret, CLIP, start_layer={start}", call, AS_IT_IS, off(ours, theirs)
        )
    for name, (title, depth, arrays) in LEGRAD.items():
        model, inputs = golden.two_tower(name)
        normalize, readout = name != "coca_a", {} if name == "clip_a" else {"final_norm": False}
        embeddings = inputs["text_features64"]
        classifier = PromptClassifier(model, embeddings=embeddings, logit_scale=1.0, normalize=normalize)
        for index in (-2, 0):
            theirs, blocks = golden.arrays(arrays.format(index))["map64"], range(depth)[index:]
            made = LeGrad(classifier, blocks=blocks, **readout).attribute_targets(inputs["x"], range(theirs.shape[1]))
            call = written(LeGrad, ({"blocks": range(-2, 0)} if index else {}) | readout, f" * {len(blocks)}")
            difference = off(made[:, :, 0] * len(blocks), theirs)  # the package sums over blocks
            yield Row("legrad_torch", f"LeWrapper(layer_index={index}), {title}", call, AS_IT_IS, difference)


def main() -> None:
    """Writes the table and prints it."""
    rows = [row for call in classifiers() for row in call.rows()]
    rows = sorted([*rows, *prompted()], key=lambda row: PACKAGES.index(row.package))
    path: Path = HERE / "results" / "peer_maps.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([each.name for each in fields(Row)])
        writer.writerows((*astuple(row)[:-1], f"{row.difference:.1e}") for row in rows)
    for row in rows:
        print(f"{row.difference:8.1e}  {row.package}: {row.theirs}, {row.version} | {row.ours}")


LEGRAD = {
    "clip_a": ("CLIP", 4, "legrad_li{}_p3_clip_a"),
    "coca_a": ("CoCa", 3, "legrad_coca_li{}_coca_a"),
    "siglip_a": ("SigLIP", 4, "legrad_siglip_li{}_nocorr_siglip_a"),
}
"""Model of tests/golden: its kind, the number of its blocks, the package's maps."""

PACKAGES = (
    "vit-explain",
    "Transformer-Explainability",
    "Transformer-MM-Explainability",
    "pytorch-grad-cam",
    "legrad_torch",
    "lxt",
)

if __name__ == "__main__":
    main()
