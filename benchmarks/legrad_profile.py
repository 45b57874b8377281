"""Where LeGrad's work and time go, against the arithmetic floor: OpenCLIP ViT-B/16 at 224, untrained.

Run it on two idle cores; it takes about a minute:

    python benchmarks/legrad_profile.py                            # eight images, one prompt
    python benchmarks/legrad_profile.py --batch 1 --prompts 16
"""

from __future__ import annotations

import argparse
from collections import Counter

import open_clip
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from captum_vit import LeGrad, PromptClassifier

MODEL = "ViT-B-16"
PARTS = {
    "aten::addmm": "linear layers, forward",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention, forward",
    "aten::mkldnn_convolution": "patch embedding",
    "aten::mm": "linear layers, backward",
    "aten::bmm": "G Vᵀ",
    "aten::clamp_": "its positive part, summed",
    "aten::sum": "its positive part, summed",
    "aten::gelu": "GELU, forward",
    "aten::gelu_backward": "GELU, backward",
    "aten::native_layer_norm": "LayerNorm, forward",
    "aten::native_layer_norm_backward": "LayerNorm, backward",
}
WORK = {
    "aten.addmm": "linear layers, forward",
    "aten._scaled_dot_product_flash_attention_for_cpu": "attention, forward",
    "aten.convolution": "patch embedding",
    "aten.mm": "linear layers, backward",
    "aten.bmm": "G Vᵀ",
}
FORWARD = ("linear layers, forward", "attention, forward", "patch embedding")


def main() -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL, pretrained=None).eval()
    embeddings = F.normalize(torch.randn(options.prompts, model.visual.output_dim), dim=-1)
    method = LeGrad(PromptClassifier(model, embeddings=embeddings, logit_scale=1.0))
    images, targets = torch.randn(options.batch, 3, 224, 224), list(range(options.prompts))
    with FlopCounterMode(display=False) as counter:
        method.attribute_targets(images, targets)
    method.attribute_targets(images, targets)  # kernels are loaded and memory is there
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        method.attribute_targets(images, targets)
    work: Counter[str] = Counter()
    for operation, count in counter.get_flop_counts()["Global"].items():
        work[WORK[str(operation)]] += count
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        seconds[PARTS.get(event.key, "all else")] += event.self_cpu_time_total / 1e6
    forward = sum(work[part] for part in FORWARD)
    print("| part | GFLOP an image | × forward | share of the time |", "| --- | --- | --- | --- |", sep="\n")
    for part in dict.fromkeys([*PARTS.values(), "all else"]):
        done = f"{work[part] / 1e9 / options.batch:.1f} | {work[part] / forward:.3f}" if work[part] else " | "
        print(f"| {part} | {done} | {seconds[part] / seconds.total():.1%} |")
    total = work.total()
    print(f"| all | {total / 1e9 / options.batch:.1f} | {total / forward:.3f} | {seconds.total():.2f} s |")


if __name__ == "__main__":
    main()
