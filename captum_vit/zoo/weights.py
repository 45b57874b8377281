"""Where weights come from: a hub that may not answer, or a local file that must fit whole."""

from __future__ import annotations

import pickle
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

__all__ = ["WeightsUnavailableError", "answers", "hub", "load_strictly", "random_weights", "read_state_dict"]

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts keep the weights, averaged ones first, as timm reads them."""


_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
"""What the unpickler raises for forbidden code, for archives of other kinds, and for arbitrary bytes."""


class WeightsUnavailableError(RuntimeError):
    """What a model is made from can't be had: no network and no cached copy, or it was not published.

    Args:
        name: the model's name.
        cause: why, in one line.
        what: what is missing; the remedy depends on whether it is the weights.
        remedy: what can be done, where that is something else.
    """

    def __init__(self, name: str, cause: str, what: str = "pretrained weights", *, remedy: str | None = None) -> None:
        remedy = remedy or (
            "Give a local file (checkpoint=FILE, --checkpoint FILE), take random weights (weights='untrained', "
            "--untrained), or connect once so that they are cached."
            if what == "pretrained weights"
            else "Connect once so that it is cached, or name a local folder that holds it."
        )
        super().__init__(f"the {what} of {name} can't be had: {cause.rstrip('.')}. {remedy}")
        self.name = name
        self.cause = cause


def answers(url: str, *, timeout: float = 3.0) -> bool:
    """Whether a server can be reached at all, through the environment's proxies; any reply counts, errors too.

    Args:
        url: address of the server, http or https.
        timeout: seconds to wait.
    """
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout):  # noqa: S310 the libraries' own addresses
            return True
    except HTTPError:
        return True
    except OSError as error:
        # A certificate that this probe can't check says that somebody is there.
        return isinstance(getattr(error, "reason", None), ssl.SSLError)


@contextmanager
def hub(*, needed: bool = True) -> Iterator[bool]:
    """Lets model libraries read their local cache at once when the Hugging Face hub does not answer.

    They would retry for about a minute. The flag is set in this process only, for the length of the block.

    Args:
        needed: False for work on local files, for which nobody is asked.

    Yields:
        Whether the hub answers, or is not needed.
    """
    from huggingface_hub import constants

    if not needed:
        yield True
        return
    before = constants.HF_HUB_OFFLINE
    reachable = not before and answers(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def cause_of(error: Exception, *, reachable: bool) -> str:
    """Why a download failed, in one line."""
    if reachable:
        return " ".join(str(error).split())
    return "the model hub does not answer (no network, or HF_HUB_OFFLINE is set) and the files are not in its cache"


@contextmanager
def random_weights(seed: int) -> Iterator[None]:
    """Weights drawn inside depend on the seed only, and the caller's random numbers go on as if nothing was drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a ``.safetensors`` file or in what ``torch.save`` wrote, by name.

    Pickled code is never run (``weights_only=True``). Weights under ``state_dict`` or ``model`` are taken out (averaged
    ones first, as timm does), and the ``module.`` of ``DistributedDataParallel`` is dropped from names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of weights, or weights that are infinite or no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {str(path)!r}, which is no file.")
    loaded = _read(path)
    wrapper = next((key for key in _WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)), None)
    state = loaded if wrapper is None else loaded[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(each, Tensor) for each in state.values()):
        raise ValueError(
            f"checkpoint {path} must hold weights by name (a state dict, or one under {', '.join(_WRAPPERS)}), got "
            f"{type(state).__name__}."
        )
    for name, weight in state.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"checkpoint {path} must hold finite weights, got NaN or infinity in {name}.")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): weight for name, weight in state.items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"checkpoint {path} is no safetensors file: {error}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"checkpoint {path} can't be read with weights_only=True: {reason}. Save the weights alone: "
            "torch.save(model.state_dict(), FILE)."
        ) from error


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Loads weights only if every name and every shape fits.

    Raises:
        ValueError: names that are missing or left over, or shapes that differ; the model is then untouched.
    """
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in state],
        "not in the model": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    found = [f"{len(names)} {what} ({_few(names)})" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"checkpoint {path} does not fit {type(model).__name__}: {'; '.join(found)}.")
    model.load_state_dict(state)


def _few(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
