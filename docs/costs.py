"""What methods hold and which models they explain, from the facts of their classes."""

from __future__ import annotations

from captum_vit import METHODS, ViTAttribution
from captum_vit.attr import WRAPPERS, Need
from captum_vit.attr.wrapper import MethodWrapper


def cost_rows() -> list[list[str]]:
    """Every method and wrapper, linked from docs/choose-a-method.md, with its memory and its models."""
    return [
        [f"[`{method.__name__}`](methods/{name}.md)", memory(method), models(method)]
        for name, method in {**METHODS, **WRAPPERS}.items()
    ]


def memory(method: type[ViTAttribution]) -> str:
    """What it holds at a time."""
    return "as the method inside" if issubclass(method, MethodWrapper) else method.memory


def models(method: type[ViTAttribution]) -> str:
    """What a model must have; a wrapper asks for it beside what the method inside needs."""
    if not issubclass(method, MethodWrapper):
        needs = method.model_needs()
        return f"all with {_listed(needs)}" if needs else "all"
    own: tuple[Need, ...] = vars(method).get("needs", ())
    needs = (*own, Need.RULES) if method.has_own_rules else own
    return "as the method inside" + (f", with {_listed(needs)}" if needs else "")


def _listed(needs: tuple[Need, ...]) -> str:
    return ", ".join(each.value for each in needs)
