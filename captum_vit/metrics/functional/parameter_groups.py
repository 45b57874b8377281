"""The parameters of a transformer in groups, from its input to its output; drawing them anew and putting them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from re import fullmatch
from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Groups", "NamedGroups", "block_groups", "kept", "named_groups", "put_back", "redraw"]

Groups: TypeAlias = dict[str, list[nn.Parameter]]
"""Parameters by the name of their group, the input's first."""

NamedGroups: TypeAlias = Sequence[tuple[str, Iterable[nn.Module | nn.Parameter]]]
"""Groups as a caller writes them: [("embedding", [model.patch_embed, model.cls_token]), ("head", [model.head])]."""


def block_groups(model: nn.Module) -> Groups:
    """Every parameter of a model in one of the groups "embedding", one per block, and "head".

    The blocks are the longest `nn.ModuleList` or `nn.Sequential` whose members are of one type; of lists that are
    equally long, the one with most parameters. Parameters that the model registers before the blocks are its
    embedding, those after them its head. That order is nearly always the order of the computation. Where it is not,
    names tell: what lies beside the blocks, or beside a module around them, and is called ``proj``, ``fc_norm``,
    ``head…`` or ``…_projection`` belongs to the head wherever it is registered. OpenCLIP's ``visual.proj`` is such a
    parameter; a ``patch_embed.proj`` is not, for it lies inside another module.

    Raises:
        ValueError: no such list, or attention in a second one, as in a whole CLIP.

    Example:
        >>> blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        >>> model = nn.ModuleDict({"patches": nn.Conv2d(3, 2, 4), "blocks": blocks, "norm": nn.LayerNorm(2)})
        >>> {name: len(parameters) for name, parameters in block_groups(model).items()}
        {'embedding': 2, 'blocks.0': 2, 'blocks.1': 2, 'head': 2}
    """
    prefix, blocks = _blocks(model)
    groups: Groups = {"embedding": []}
    groups |= {f"{prefix}.{name}": list(block.parameters()) for name, block in blocks.named_children()}
    groups["head"] = []
    inside = {id(each) for each in blocks.parameters()}
    group = "embedding"
    for name, each in model.named_parameters():
        if id(each) in inside:
            group = "head"
        else:
            groups["head" if _is_late(name, prefix) else group].append(each)
    return {name: parameters for name, parameters in groups.items() if parameters}


def named_groups(model: nn.Module, groups: NamedGroups) -> Groups:
    """A caller's groups as parameters.

    Raises:
        TypeError: a member is neither a module nor a parameter.
        ValueError: no group, a name or a parameter that comes twice, a group without parameters, or a parameter that
            is not the model's.
    """
    if not groups:
        raise ValueError("groups must name at least one group, got none.")
    own = {id(each): name for name, each in model.named_parameters()}
    taken: dict[int, str] = {}
    result: Groups = {}
    for name, members in groups:
        if name in result:
            raise ValueError(f"groups must have different names, got {name!r} twice.")
        result[name] = list(_parameters(members))
        if not result[name]:
            raise ValueError(f"groups must hold parameters, got none in {name!r}.")
        for each in result[name]:
            if id(each) not in own:
                raise ValueError(f"groups must hold the model's own parameters, got one of others in {name!r}.")
            if id(each) in taken:
                raise ValueError(
                    f"groups must not share parameters, got {own[id(each)]} in {taken[id(each)]!r} and in {name!r}."
                )
            taken[id(each)] = name
    return result


@contextmanager
def kept(groups: Groups) -> Iterator[dict[str, list[Tensor]]]:
    """Puts the parameters of ``groups`` back at the end, bit for bit, also after an exception.

    Yields:
        Copies of the parameters as they were.
    """
    copies = {name: [each.detach().clone() for each in parameters] for name, parameters in groups.items()}
    try:
        yield copies
    finally:
        for name, parameters in groups.items():
            put_back(parameters, copies[name])


def put_back(parameters: Iterable[nn.Parameter], copies: Iterable[Tensor]) -> None:
    """Sets the parameters to the values of their copies."""
    with torch.no_grad():
        for each, copy in zip(parameters, copies, strict=True):
            each.copy_(copy)


def redraw(model: nn.Module, parameters: Iterable[nn.Parameter], *, seed: int, std: float = 0.02) -> None:
    """Sets parameters as if the model had just been made: noise of one size, and norms that change nothing.

    The weights of norms become 1, their biases 0. Everything else, whatever module holds it, is drawn from a normal
    distribution: weights and biases, class tokens, position embeddings, the query, key and value weights of
    `nn.MultiheadAttention`, scales of layers. Buffers stay. Numbers come from a generator of its own, on the CPU, so
    that they are the same on every device and leave the global one alone.

    Args:
        model: holds the parameters; tells which of them belong to norms.
        parameters: of floating point.
        seed: the same seed draws the same numbers.
        std: standard deviation; 0.02 is that of vision transformers at initialisation.

    Raises:
        TypeError: a parameter that is not of floating point, such as a quantised one.
    """
    constants = _norm_constants(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in parameters:
            if not each.is_floating_point():
                raise TypeError(f"parameters must be of floating point to be drawn anew, got {each.dtype}.")
            if id(each) in constants:
                each.fill_(constants[id(each)])
            else:
                each.copy_(torch.randn(each.shape, generator=generator) * std)


def _blocks(model: nn.Module) -> tuple[str, nn.Module]:
    """The name of the list of blocks, and the list."""
    found = [
        (len(module), sum(each.numel() for each in module.parameters()), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({*map(type, module)}) == 1
    ]
    found = [each for each in found if each[1]]
    if not any(length > 1 for length, *_ in found):
        raise ValueError(
            f"model must hold an nn.ModuleList or nn.Sequential of equal blocks, got {type(model).__name__} without "
            "one. Name the groups: groups=[(name, [modules or parameters]), …], the input's first."
        )
    _, _, name, module = max(found, key=lambda each: each[:2])
    for _, _, other, members in found:
        nested = f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")
        if not nested and _attends(module) and _attends(members):
            raise ValueError(
                f"model must hold one list of blocks, got {name!r} and {other!r}. Pass the image tower alone, or name "
                "the groups: groups=[(name, [modules or parameters]), …], the input's first."
            )
    return name, module


def _attends(blocks: nn.Module) -> bool:
    """Whether there is attention in a list, known by the name of a class."""
    return any("attention" in type(module).__name__.lower() for module in blocks.modules())


def _is_late(name: str, blocks: str) -> bool:
    """Whether a parameter's name says that it is used after the blocks, wherever it is registered."""
    parts = name.split(".")
    around = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, blocks.split("."), strict=False)))
    return fullmatch(r"proj|fc_norm|head.*|.+_projection", parts[around]) is not None


def _parameters(members: Iterable[nn.Module | nn.Parameter]) -> Iterator[nn.Parameter]:
    for each in members:
        if isinstance(each, nn.Parameter):
            yield each
        elif isinstance(each, nn.Module):
            yield from each.parameters()
        else:
            raise TypeError(f"groups must hold modules and parameters, got {type(each).__name__}.")


def _norm_constants(model: nn.Module) -> dict[int, float]:
    """What the parameters of norms begin as, by their identity; a norm is known by its class's name."""
    return {
        id(each): float(name not in ("bias", "beta"))
        for module in model.modules()
        if "norm" in type(module).__name__.lower()
        for name, each in module.named_parameters(recurse=False)
        if each.ndim == 1
    }
