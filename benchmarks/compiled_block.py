"""Whether `torch.compile` pays for what LeGrad does to each block: from its attention to its tokens, and back.

The end of one block of ViT-B/16, 197 tokens an image, as PyTorch runs it and compiled, in turns. The compiler needs a
C++ compiler on a CPU and Triton on a GPU:

    python benchmarks/compiled_block.py                      # two minutes; adds a row to results/compiled_block.csv
    python benchmarks/compiled_block.py --device cuda --dtype bfloat16 --batch 256
"""

from __future__ import annotations

import argparse
import time
from datetime import datetime, timezone
from functools import partial
from statistics import median

import torch
from environments import HERE, commit, machine
from report import append_rows
from serving import finished, repeated
from timm.models.vision_transformer import Block
from torch import Tensor

FIELDS = ["date", "commit", "machine", "device", "threads", "dtype", "torch", "batch", "width"]
FIELDS += ["eager_s", "compiled_s", "ratio", "first_call_s", "difference"]
TOKENS = 197


def end_of_block(block: Block, attended: Tensor, tokens: Tensor) -> Tensor:
    """The block's tokens (B, N, D) from what its heads gave, (B, N, D), and its input."""
    tokens = tokens + block.attn.proj(attended)
    return tokens + block.mlp(block.norm2(tokens))


def there_and_back(end: partial[Tensor], attended: Tensor, tokens: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at the attention output, (B, N, D), for one at the tokens."""
    attended = attended.detach().requires_grad_()
    return torch.autograd.grad(end(attended, tokens), attended, gradient)[0]


def main() -> None:
    """Measures, adds a row to the csv file and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a turn repeats a call, at least once")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    block = Block(options.width, options.width // 64, qkv_bias=True).to(device, dtype).eval().requires_grad_(False)
    given = torch.randn(3, options.batch, TOKENS, options.width).to(device, dtype)
    ends = {"eager": partial(end_of_block, block), "compiled": torch.compile(partial(end_of_block, block))}
    calls = {name: partial(finished, partial(there_and_back, end, *given), device) for name, end in ends.items()}
    began = time.perf_counter()
    compiled = calls["compiled"]()
    first = time.perf_counter() - began
    expected = calls["eager"]()
    turns = [
        {name: median(repeated(call, options.seconds)) for name, call in calls.items()} for _ in range(options.rounds)
    ]
    row = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else machine(),
        **{name: getattr(options, name) for name in ("device", "threads", "dtype", "batch", "width")},
        "torch": torch.__version__,
        **{f"{name}_s": median(turn[name] for turn in turns) for name in calls},
        "ratio": median(turn["compiled"] / turn["eager"] for turn in turns),
        "first_call_s": first,
        "difference": float((compiled - expected).abs().max() / expected.abs().max()),
    }
    append_rows(HERE / "results" / "compiled_block.csv", [row], FIELDS)
    print(*(f"{name}: {each}" for name, each in row.items()), sep="\n")


if __name__ == "__main__":
    main()
