"""Where methods that depend on the target do no better than random maps on the shipped models."""

EXCUSED = {
    ("attention-cam", "scenes:vit"): {"deletion"},
    ("attention-cam", "scenes:clip"): {"pointing game", "deletion"},
    ("attention-cam", "scenes:siglip"): {"deletion"},
    ("grad-cam", "scenes:siglip"): {"deletion"},
    ("grad-cam-plus-plus", "scenes:vit"): {"deletion"},
    ("grad-cam-plus-plus", "scenes:clip"): {"deletion"},  # on other scenes than those of the table
    ("grad-cam-plus-plus", "scenes:siglip"): {"deletion"},
    ("hires-cam", "scenes:siglip"): {"deletion"},
    ("layer-cam", "scenes:siglip"): {"deletion"},
    ("lrp", "scenes:vit"): {"pointing game"},
    ("lrp", "scenes:clip"): {"deletion"},
    ("lrp", "scenes:siglip"): {"pointing game", "deletion"},
}
"""By method and model; each method's page says why, under "On the scenes"."""
