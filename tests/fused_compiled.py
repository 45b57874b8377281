"""Compiles the kernels, for GPUs that need not be here; prints what they take as JSON."""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from captum_vit.adapters import triton_kernels

POINTERS = {"left", "right", "query", "key"}
FLOATS = {"sums", "weight", "normalisers"}
PLAIN, LARGEST = ("bf16", 64, 64), ("fp32", 32, 128)
"""dtype, rows, channels: of tiles that `fused._step` chooses."""
CASES = [
    ("product_sums", {"kind": "positive"}, PLAIN, 90),
    ("softmax_normalisers", {"biased": True}, PLAIN, 80),
    ("softmax_sums", {"biased": True, "multiplied": True}, LARGEST, 80),
]


def compiled(name: str, options: dict, tile: tuple, capability: int) -> dict:
    dtype, step, lanes = tile
    kernel = getattr(triton_kernels, name)
    constants = options | {"step": step, "lanes": lanes, "product_lanes": lanes, "widened": False}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {}
    for each in kernel.arg_names:
        if each in constants:
            signature[each] = "constexpr"
        elif each in POINTERS or each == "bias":
            signature[each] = f"*{dtype}"
        elif each in FLOATS:
            signature[each] = "*fp32"
        else:
            signature[each] = "fp32" if each == "scale" else "i32"
    source = ASTSource(kernel, signature, constants)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4, "num_stages": 2})
    return {"name": name, **options, "tile": tile, "capability": capability, "shared": built.metadata.shared}


if __name__ == "__main__":
    json.dump([compiled(*case) for case in CASES], sys.stdout)
