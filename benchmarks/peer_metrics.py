"""What grad-cam, torchcam and quantus say about fixed maps: arrays that the tests compare with this package's metrics.

    python benchmarks/peer_metrics.py    # writes tests/golden/metrics_*.npz

Each peer runs once, in a process and an environment of its own (`peer_metrics_worker.py`). The model is a linear layer
and a softmax on an image of 32×32, whose weights are among the inputs.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from environments import HERE, peer_environment

PEERS = {"grad-cam": "grad-cam==1.5.7", "torchcam": "torchcam==0.5.0", "quantus": "quantus==0.6.0"}
GOLDEN = HERE.parent / "tests" / "golden"


def inputs() -> dict[str, np.ndarray]:
    """Six images, smooth maps without equal values, targets, masks and the model's weights."""
    random = np.random.default_rng(0)
    coarse = random.random((6, 4, 4)).repeat(8, 1).repeat(8, 2)
    images = random.standard_normal((6, 3, 32, 32)).astype(np.float32)
    weights = (0.05 * random.standard_normal((5, 3 * 32 * 32))).astype(np.float32)
    predicted = (images.reshape(6, -1) @ weights.T).argmax(1)
    return {
        "images": images,
        "maps": ((coarse + 0.5 * random.random((6, 32, 32))) / 1.5).astype(np.float32),
        "targets": (predicted + np.array([0, 0, 0, 1, 2, 3])) % 5,  # some lose by what is removed, others gain
        "masks": coarse > np.quantile(coarse, 0.7),
        "weights": weights,
    }


def main() -> None:
    """Writes the inputs, then what each peer makes of them."""
    given = GOLDEN / "metrics_inputs.npz"
    np.savez_compressed(given, **inputs())
    for peer, requirement in PEERS.items():
        python = peer_environment(peer, requirement)
        found = Path(GOLDEN / f"metrics_{peer}.npz")
        command = [str(python), str(HERE / "peer_metrics_worker.py"), peer, str(given), str(found)]
        subprocess.run(command, check=True)
        with np.load(found) as arrays:
            print(peer, *(f"{name} {arrays[name].shape}" for name in arrays.files), sep="\n  ")


if __name__ == "__main__":
    main()
