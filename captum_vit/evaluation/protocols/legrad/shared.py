"""What the tables of LeGrad have in common: models, rows, and what the paper leaves open."""

from __future__ import annotations

from captum_vit.evaluation.protocols.base import Choice, Column, Method, Model, Run

__all__ = [
    "ATTENTION_CAM",
    "CHEFER_CAM",
    "CLASS_NAMES",
    "DEMO_SIZE",
    "GRAD_CAM",
    "GRAD_CAM_BLOCK",
    "LEGRAD_METHOD",
    "PAPER",
    "PARTIAL_LRP",
    "PERTURBATION_NOTES",
    "POINTS",
    "POINT_CHOICES",
    "POINT_NOTES",
    "RAW_ATTENTION",
    "ROLLOUT",
    "SIGLIP",
    "SIZE_NOTE",
    "TEMPLATE",
    "TEXT_SPAN",
    "VIT",
    "clip",
    "perturbed",
    "pointed",
]

PAPER = "arXiv:2404.03214"

_CLIP = {
    "ViT-B/16": "open_clip:ViT-B-16/laion2b_s34b_b88k",
    "ViT-L/14": "open_clip:ViT-L-14/laion2b_s32b_b82k",
    "ViT-H/14": "open_clip:ViT-H-14/laion2b_s32b_b79k",
    "ViT-bigG/14": "open_clip:ViT-bigG-14/laion2b_s39b_b160k",
}
DEMO_SIZE = 448
SIZE_NOTE = f"Images are squashed to {DEMO_SIZE}×{DEMO_SIZE} as in the authors' demo: the paper states no size."


def clip(name: str, image_size: int | None = None) -> Model:
    """One of the paper's OpenCLIP models, with the weights of its appendix B.1."""
    return Model(name, _CLIP[name], "scenes:clip", image_size)


SIGLIP = "open_clip:ViT-B-16-SigLIP/webli"
VIT = Model("ViT-B/16", "timm:vit_base_patch16_224.orig_in21k_ft_in1k", "scenes:vit")

ROLLOUT = Method("rollout", "attention-rollout")
RAW_ATTENTION = Method("Raw attention", "raw-attention")
GRAD_CAM = Method("GradCAM", "grad-cam(block=-4, tokens='block', count_prefix=True, relu=True)")
ATTENTION_CAM = Method("AttentionCAM", "attention-cam")
CHEFER_CAM = Method("CheferCAM", "chefer-cam")
PARTIAL_LRP = Method("Partial-LRP", "partial-lrp")
TEXT_SPAN = Method("TextSpan", "text-span")
LEGRAD_METHOD = Method("LeGrad", "legrad")

GRAD_CAM_BLOCK = (
    "GradCAM takes the fourth block from the end, number 8 of ViT-B/16 counted from 0. The paper says layer 8, without "
    "saying from where it counts, and that for the other sizes it took the best layer, without saying which."
)
CLASS_NAMES = "Names of ImageNet's classes are those of OpenCLIP: the paper does not say which it took."
TEMPLATE = {
    "template": Choice("A photo of a {}", "the sentence is the paper's; its authors' code writes it in other ways, too")
}

POINTS = Column("p-mIoU", "point-miou(average={average})")
POINT_CHOICES = TEMPLATE | {
    "average": Choice("class", "what p-mIoU is a mean over: 'class', 'image' (pairs of image and class) or 'global'")
}
POINT_NOTES = (
    "The code of p-mIoU is not public. It is taken to be of the foreground alone, since a mean with the background "
    "could hardly be below 1 %, and a point at 0.5 is taken to be background.",
    SIZE_NOTE,
)

PERTURBATION_NOTES = (
    "Pixels of the upsampled map go black before normalisation, 0 to 90 % of them, images squashed bilinearly to the "
    "model's size: the paper says that it follows common practice, which is taken to be the code of Chefer et al.",
    "Numbers are 100 times the area over [0, 0.9], at most 90; accuracy is against the label for maps of either class.",
)
_NEGATIVE = "negative-perturbation(against='label', fill='black')"
_POSITIVE = "positive-perturbation(against='label', fill='black')"


def perturbed(model: Model, *classes: str, suppression: str = "") -> tuple[Run, ...]:
    """Both orders of removal, for maps of the "predicted" class and of the "target"."""
    return tuple(
        Run(
            _folder(model.name, each),
            ("imagenet",),
            model,
            (Column(f"Negative {each}", _NEGATIVE, scale=1), Column(f"Positive {each}", _POSITIVE, scale=1)),
            target="predicted" if each == "predicted" else "label",
            geometry={"interpolation": "bilinear"},
            suppression=suppression,
        )
        for each in classes
    )


def pointed(model: Model, suppression: str = "") -> Run:
    """The points of OpenImages."""
    return Run(_folder(model.name, "points"), ("openimages",), model, (POINTS,), suppression=suppression)


def _folder(model: str, what: str) -> str:
    return f"{model.replace('/', '-')}-{what}"
