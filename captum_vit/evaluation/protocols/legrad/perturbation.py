"""Tables 5 to 9: what a model still gets right while pixels are taken away."""

from __future__ import annotations

from captum_vit.evaluation.protocols.base import Method, Model, Protocol, printed
from captum_vit.evaluation.protocols.legrad.shared import (
    ATTENTION_CAM,
    CHEFER_CAM,
    CLASS_NAMES,
    DEMO_SIZE,
    GRAD_CAM,
    GRAD_CAM_BLOCK,
    LEGRAD_METHOD,
    PAPER,
    PARTIAL_LRP,
    PERTURBATION_NOTES,
    POINT_CHOICES,
    POINT_NOTES,
    RAW_ATTENTION,
    ROLLOUT,
    SIGLIP,
    TEMPLATE,
    TEXT_SPAN,
    VIT,
    clip,
    perturbed,
    pointed,
)

__all__ = ["PERTURBATION"]

_FOUR = ("Negative predicted", "Negative target", "Positive predicted", "Positive target")
_TWO = ("Negative target", "Positive target")


def _heads(model: str, columns: tuple[str, ...] = _FOUR) -> list[tuple[str, str]]:
    return [(model, column) for column in columns]


_TABLE_5 = Protocol(
    "legrad-table-5",
    "Perturbation on ImageNet, OpenCLIP",
    f"{PAPER}, table 5",
    tuple(
        run
        for name in ("ViT-B/16", "ViT-L/14", "ViT-H/14", "ViT-bigG/14")
        for run in perturbed(clip(name), "predicted", "target")
    ),
    (ROLLOUT, RAW_ATTENTION, GRAD_CAM, ATTENTION_CAM, CHEFER_CAM, TEXT_SPAN, LEGRAD_METHOD),
    printed(
        _heads("ViT-B/16"),
        {
            "rollout": (44.36, 44.36, 23.03, 23.03),
            "Raw attention": (46.97, 46.97, 20.23, 20.23),
            "GradCAM": (32.01, 45.26, 36.52, 22.86),
            "AttentionCAM": (39.56, 39.68, 34.28, 34.12),
            "CheferCAM": (47.91, 49.28, 18.66, 17.70),
            "TextSpan": (50.92, 52.81, 15.10, 14.26),
            "LeGrad": (50.24, 52.27, 15.06, 13.97),
        },
    )
    | printed(
        _heads("ViT-L/14"),
        {
            "rollout": (40.46, 40.46, 29.46, 29.46),
            "Raw attention": (47.14, 47.14, 23.49, 23.49),
            "GradCAM": (45.24, 47.08, 23.81, 22.68),
            "AttentionCAM": (45.81, 45.84, 31.18, 31.03),
            "CheferCAM": (49.69, 50.37, 20.67, 20.14),
            "TextSpan": (53.17, 54.42, 16.77, 16.12),
            "LeGrad": (53.11, 54.48, 15.98, 15.23),
        },
    )
    | printed(
        _heads("ViT-H/14"),
        {
            "rollout": (49.37, 49.37, 32.91, 32.91),
            "Raw attention": (54.42, 54.42, 29.25, 29.25),
            "GradCAM": (45.26, 45.48, 40.98, 40.91),
            "AttentionCAM": (51.62, 51.65, 36.72, 36.56),
            "CheferCAM": (56.55, 56.56, 26.17, 26.16),
            "TextSpan": (60.14, 61.91, 20.07, 19.14),
            "LeGrad": (60.02, 61.72, 19.30, 18.26),
        },
    )
    | printed(
        _heads("ViT-bigG/14"),
        {
            "rollout": (38.44, 38.44, 48.72, 48.72),
            "Raw attention": (56.56, 56.56, 31.25, 31.25),
            "GradCAM": (40.06, 40.98, 57.53, 56.31),
            "AttentionCAM": (54.68, 54.74, 39.28, 39.27),
            "CheferCAM": (57.95, 58.27, 29.21, 28.45),
            "TextSpan": (63.32, 64.95, 21.96, 21.06),
            "LeGrad": (62.62, 64.67, 21.33, 20.28),
        },
    ),
    (
        *PERTURBATION_NOTES,
        CLASS_NAMES,
        GRAD_CAM_BLOCK,
        "The right half of the printed table does not name its models: it is ViT-H/14, with the numbers of table 9, "
        "above ViT-bigG/14.",
    ),
    TEMPLATE,
)

_SIGLIP = "SigLIP-B/16"
_EMPTY_PROMPT = "a photo of"

_TABLE_6 = Protocol(
    "legrad-table-6",
    "SigLIP: perturbation on ImageNet and points of OpenImages V7, the background suppressed",
    f"{PAPER}, table 6",
    (
        *perturbed(Model(_SIGLIP, SIGLIP, "scenes:siglip"), "predicted", "target", suppression=_EMPTY_PROMPT),
        pointed(Model(_SIGLIP, SIGLIP, "scenes:siglip", DEMO_SIZE), suppression=_EMPTY_PROMPT),
    ),
    (ROLLOUT, RAW_ATTENTION, GRAD_CAM, ATTENTION_CAM, CHEFER_CAM, LEGRAD_METHOD),
    printed(
        _heads(_SIGLIP, (*_FOUR, "p-mIoU")),
        {
            "rollout": (47.81, 47.81, 25.74, 25.74, 0.07),
            "Raw attention": (44.42, 44.42, 25.85, 25.85, 0.09),
            "GradCAM": (41.25, 44.42, 35.10, 33.50, 6.97),
            "AttentionCAM": (45.62, 45.71, 45.01, 44.92, 0.19),
            "CheferCAM": (47.12, 49.13, 22.35, 21.15, 1.94),
            "LeGrad": (50.08, 51.67, 18.48, 17.55, 25.40),
        },
    ),
    (
        *PERTURBATION_NOTES,
        *POINT_NOTES,
        "Patches above 0.8 in the map of the empty prompt are set to 0 for every method and for both measures, as "
        "appendix B.5 is read here. The empty prompt is the paper's 'a photo of'; the authors' code has 'a "
        "photo of a'.",
        CLASS_NAMES,
        "GradCAM takes the fourth block from the end: the paper names no layer of SigLIP.",
    ),
    POINT_CHOICES,
)

_TABLE_7 = Protocol(
    "legrad-table-7",
    "Variants of GradCAM: points of OpenImages V7 and perturbation on ImageNet, OpenCLIP",
    f"{PAPER}, table 7",
    (pointed(clip("ViT-B/16", DEMO_SIZE)), *perturbed(clip("ViT-B/16"), "target")),
    (
        Method("GradCAM w/ [CLS]", GRAD_CAM.spec),
        Method("GradCAM w/o [CLS]", "grad-cam(block=-4, tokens='block', count_prefix=False, relu=True)"),
        Method("Multi-layer w/ [CLS]", "grad-cam(block='all', tokens='block', count_prefix=True, relu=True)"),
        LEGRAD_METHOD,
    ),
    printed(
        _heads("ViT-B/16", ("p-mIoU", *_TWO)),
        {
            "GradCAM w/ [CLS]": (8.72, 45.26, 22.86),
            "GradCAM w/o [CLS]": (8.18, 41.29, 24.20),
            "Multi-layer w/ [CLS]": (9.51, 45.31, 22.54),
            "LeGrad": (48.38, 52.27, 13.97),
        },
    ),
    (
        *POINT_NOTES,
        *PERTURBATION_NOTES,
        "The printed table does not say for which class the maps of the perturbation are: its numbers are those of the "
        "target in table 5.",
        CLASS_NAMES,
        GRAD_CAM_BLOCK,
    ),
    POINT_CHOICES,
)

_TABLE_8 = Protocol(
    "legrad-table-8",
    "Perturbation on ImageNet, a classifier",
    f"{PAPER}, table 8",
    perturbed(VIT, "predicted", "target"),
    (
        ROLLOUT,
        RAW_ATTENTION,
        GRAD_CAM,
        ATTENTION_CAM,
        Method("Trans. Attrib.", "transformer-attribution"),
        PARTIAL_LRP,
        CHEFER_CAM,
        LEGRAD_METHOD,
    ),
    printed(
        _heads("ViT-B/16"),
        {
            "rollout": (53.10, 53.10, 20.06, 20.06),
            "Raw attention": (45.55, 45.55, 24.01, 24.01),
            "GradCAM": (43.17, 42.97, 26.89, 26.99),
            "AttentionCAM": (41.53, 42.03, 33.54, 34.05),
            "Trans. Attrib.": (54.19, 55.09, 17.01, 16.36),
            "Partial-LRP": (50.28, 50.29, 19.82, 19.80),
            "CheferCAM": (54.68, 55.70, 17.30, 16.75),
            "LeGrad": (54.72, 56.43, 15.20, 14.13),
        },
    ),
    (
        *PERTURBATION_NOTES,
        "Which weights are meant by a ViT trained on ImageNet is not stated: the first that were published are taken.",
        GRAD_CAM_BLOCK,
    ),
)

_TABLE_9 = Protocol(
    "legrad-table-9",
    "LeGrad without its parts: perturbation on ImageNet, OpenCLIP",
    f"{PAPER}, table 9",
    tuple(run for name in ("ViT-L/14", "ViT-H/14") for run in perturbed(clip(name), "target")),
    (
        Method("neither", "legrad(relu=False, per_block_readout=False)"),
        Method("ReLU", "legrad(per_block_readout=False)"),
        Method("all layers", "legrad(relu=False)"),
        Method("ReLU, all layers", "legrad"),
    ),
    printed(
        [*_heads("ViT-L/14", _TWO), *_heads("ViT-H/14", _TWO)],
        {
            "neither": (47.81, 20.80, 57.57, 21.73),
            "ReLU": (49.32, 19.95, 59.55, 19.50),
            "all layers": (52.01, 16.80, 60.28, 18.26),
            "ReLU, all layers": (54.48, 15.23, 61.72, 18.26),
        },
    ),
    (
        *PERTURBATION_NOTES,
        CLASS_NAMES,
        "Without 'all layers' every block's gradient is taken of the output of the last block.",
        "For ViT-H/14 the paper prints 18.26 in both of the last rows.",
    ),
    TEMPLATE,
)

PERTURBATION = (_TABLE_5, _TABLE_6, _TABLE_7, _TABLE_8, _TABLE_9)
