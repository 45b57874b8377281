"""Maps as pictures: pure functions on arrays, and figures that never touch pyplot's global state."""

from captum_vit.viz.figures import figure
from captum_vit.viz.fingerprint import LINE_COLOURS, fingerprint
from captum_vit.viz.outlines import outline
from captum_vit.viz.overlays import SIGNED_COLOURS, UNSIGNED_COLOURS, colour, normalise, overlay
from captum_vit.viz.show import show, show_difference

__all__ = [
    "LINE_COLOURS",
    "SIGNED_COLOURS",
    "UNSIGNED_COLOURS",
    "colour",
    "figure",
    "fingerprint",
    "normalise",
    "outline",
    "overlay",
    "show",
    "show_difference",
]
