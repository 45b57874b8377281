"""The settings of segmentation by heat maps in papers, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["PRESETS", "preset_settings"]

_CHEFER = {"threshold": "mean", "normalise": "min_max", "aggregate": "dataset", "f1": "image", "undefined": "reference"}
_REPORT = {"normalise": "min_max", "aggregate": "image", "f1": "image", "undefined": "exclude"}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "chefer": _CHEFER,
        "clip_prs": {**_CHEFER, "normalise": "clip_min_max"},
        "legrad": {**_CHEFER, "threshold": 0.5, "undefined": "exclude"},
        "report_voc": {**_REPORT, "threshold": 0.5},
        "review_cam_lrp": _REPORT,
    }
)
"""Arguments of `Segmentation` for each paper.

| name | threshold | pixels of | undefined | class for the map | the paper's numbers here |
|---|---|---|---|---|---|
| `chefer` | mean | dataset | reference | predicted | mIoU `miou`, mAP `ap_two_channel` |
| `clip_prs` | mean, of the map without negative values | dataset | reference | predicted | as `chefer` |
| `legrad` | 0.5 | dataset | exclude | true class | taken to be as `chefer`: there is no code |
| `report_voc` | 0.5 | image | exclude | each class present | mIoU `iou_foreground`, mAP `ap_foreground` |
| `review_cam_lrp` | not stated, to be given | image | exclude | main class | Jaccard index `iou_foreground` |

- `chefer`: Chefer et al. (arXiv 2012.09838). Their code computes F1 over rows, which is ``f1="chefer_rows"``.
- `clip_prs`: Gandelsman et al. (arXiv 2310.05916). Their code crops the image but squashes the mask, so the two lie
  on each other only where the image is square; here masks are taken as they come. The map is the score of a class less
  the mean over all classes.
- `legrad`: arXiv 2404.03214, section 4.1.
- `report_voc`: the comparison of rollout, GMAR and LeGrad on VOC images. Its mIoU must be of the foreground alone: a
  mean with the background could not be 2 % at a pixel accuracy of 79 %.
- `review_cam_lrp`: the review of CAM and LRP. Its Jaccard index and F1 must be means over images: of one ratio each,
  they would be tied by F1 = 2J / (1 + J).
"""


def preset_settings(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Segmentation` for a paper, some of them changed.

    Raises:
        ValueError: an unknown name, or a threshold that the paper does not state and that is not given.

    Example:
        >>> preset_settings("legrad", {"threshold": 0.4})["threshold"]
        0.4
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}.")
    settings = {**PRESETS[name], **changes}
    if "threshold" not in settings:
        raise ValueError(f"threshold must be given for {name!r}, got none: the paper does not state it.")
    return settings
