"""One forward pass of one thread in which every call's backward carries relevance, on the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from captum_vit.adapters.attention import AttentionRecord, LazyMap, additive_mask
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.capture import checked_logits
from captum_vit.adapters.multi_head import multi_head_attention
from captum_vit.adapters.parameters import VIEW_PROPERTIES, parameters_as_constants
from captum_vit.adapters.running import running_function, running_module
from captum_vit.adapters.watching import AttentionCapture
from captum_vit.attr.relevance.arguments import Casts, cast, flat, tensors_in
from captum_vit.attr.relevance.call import Call, carries, halved_product, unchanged, with_rule
from captum_vit.attr.relevance.propagation import RuleSet, stabilise
from captum_vit.attr.relevance.rules import CONSTANT, rule_of
from captum_vit.attr.rules.mode import only_rules
from captum_vit.attr.rules.registration import shown
from captum_vit.attr.rules.sight import ModuleRule, Sight, moving

__all__ = ["RelevanceTrace", "trace_relevance"]


@dataclass(frozen=True, eq=False)
class MappedRecord(AttentionRecord):
    """An attention call whose map was formed, so that relevance passes through it.

    Attributes:
        map: A (B, h, Q, N), with the graph that carries relevance.
    """

    map: Tensor | None = None

    @property
    def attention(self) -> LazyMap:
        """The map itself, still with its graph."""
        held = self.held
        return LazyMap(self.shape, lambda index, heads: held[:, heads, index], held)

    @property
    def held(self) -> Tensor:
        """The map (B, h, Q, N)."""
        assert self.map is not None
        return self.map


@dataclass(frozen=True, eq=False)
class RelevanceTrace:
    """What one forward pass left behind.

    Attributes:
        images: (B, C, H, W), where relevance ends.
        logits: (B, K), where it starts.
        blocks: the attention map of each block, first to last, each (B, h, N, N).
        pooler: the attention pooler's map (B, h, Q, N), or None.
    """

    images: Tensor
    logits: Tensor
    blocks: list[Tensor]
    pooler: Tensor | None

    def relevance(self, targets: Tensor, at: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """For each of T targets in turn, the relevance that arrives at some of the trace's tensors.

        It starts at 1 at each image's target logit.

        Args:
            targets: output indices (B, T).
            at: tensors of the trace.

        Raises:
            RuntimeError: no relevance leaves the logits.
        """
        if not self.logits.requires_grad:
            raise RuntimeError("relevance does not reach the logits: no call on the images' tokens leads to them.")
        for index, target in enumerate(targets.T):
            start = torch.zeros_like(self.logits).scatter_(1, target[:, None], 1.0)
            last = index + 1 == targets.shape[1]
            yield torch.autograd.grad(self.logits, at, start, retain_graph=not last, materialize_grads=True)


def trace_relevance(adapter: Adapter, images: Tensor, rules: RuleSet, dtype: torch.dtype) -> RelevanceTrace:
    """Runs one forward pass after which relevance can be asked for.

    Args:
        adapter: the model.
        images: (B, C, H, W), checked by ``adapter.check_images``.
        rules: the rule set.
        dtype: what weights and images are cast to, call by call; casts inside the model are undone.

    Raises:
        RuntimeError: a call without a rule, or one that PyTorch does not show, with the module that makes it; attention
            that can't be captured; rules that apply already (`captum_vit.libragrad`).
    """
    leaf = images.to(dtype, copy=True).requires_grad_()
    capture = RelevanceCapture(adapter, leaf, rules)
    no_autocast = torch.autocast(images.device.type, enabled=False)
    with (
        only_rules("relevance propagation"),
        capture.watch(leaf, range(len(adapter.blocks))),
        capture.sight.watch(),
        torch.enable_grad(),
        no_autocast,
    ):
        logits = checked_logits(adapter, adapter(leaf))
    pooler = capture.pooler_record()
    return RelevanceTrace(leaf, logits, capture.maps, None if pooler is None else _map(pooler))


def _map(record: AttentionRecord) -> Tensor:
    assert isinstance(record, MappedRecord)
    return record.held


class RelevanceCapture(AttentionCapture):
    """The function mode behind `trace_relevance`: every call on tensors that carry relevance goes by its rule.

    Args:
        adapter: the model to watch.
        images: (B, C, H, W), requiring a gradient.
        rules: the rule set.

    Attributes:
        sight: finds calls that are not seen.
    """

    def __init__(self, adapter: Adapter, images: Tensor, rules: RuleSet) -> None:
        super().__init__(adapter, gradients=False)
        self._images = images
        self._rules = rules
        self._reads: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        register, page = "captum_vit.attr.relevance.register_rule", "docs/methods/lrp.md"
        self.sight = Sight("no relevance rule is known", register, page, self._of_modules)

    @property
    def maps(self) -> list[Tensor]:
        """The attention map of each block."""
        return [_map(record) for record in self.block_records]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = parameters_as_constants(func, args, kwargs or {})
        if self.sight.inside is not None:
            return func(*self._cast(args), **self._cast(kwargs))
        given = moving(args, kwargs)
        if not given:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__":
            output = self._harmless(func, func(*args, **kwargs))
            if isinstance(output, Tensor):  # a view, as of x.mT
                self.sight.check(given)
                self.sight.mark(output)
            return output
        if not torch.is_grad_enabled():
            raise self._without_gradients()
        self.sight.check(given)
        args, kwargs = self._cast(args), self._cast(kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return multi_head_attention(self._multi_head_call, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            output = self._decomposed_attention(*args, **kwargs)
        else:
            output = self._by_rule(func, args, kwargs)
        self.sight.mark(output, args[0] if args else None)
        self._count_reads(tensor for tensor in tensors_in((args, kwargs)) if tensor is not output)
        return output

    def _without_gradients(self) -> RuntimeError:
        """The error of a call while gradients are off: in the forward of an autograd.Function, or by the model."""
        function, where = running_function(), running_module()
        if function is not None:
            return self.sight.hidden(f"the autograd.Function {shown(function)}", where)
        return RuntimeError(
            f"{self.adapter.family} turns gradients off inside its forward (torch.no_grad), where relevance would be "
            f"lost, in {where}."
        )

    def _by_rule(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = rule_of(func)
        if rule is not None:
            return rule(Call(func, args, kwargs, self._rules, self._images))
        name = getattr(func, "__name__", "")
        if name.endswith("_") and (rule := rule_of(getattr(Tensor, name[:-1], func))) is not None:
            changed, *others = args  # in place: the value before the call stays what the rule explains
            call = Call(getattr(Tensor, name[:-1]), (changed.clone(), *others), kwargs, self._rules, self._images)
            return changed.copy_(rule(call))
        return self._harmless(func, func(*args, **kwargs))

    def _of_modules(self, kind: type[nn.Module]) -> ModuleRule | None:
        rule = rule_of(kind)
        if rule is None:
            return None

        def apply(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            def forward(*operands: Any, **options: Any) -> Any:
                with Casts(self._images.dtype):  # a rule may call it in the backward pass, too
                    return module.forward(*operands, **options)

            forward.__name__ = kind.__name__
            output = rule(Call(forward, args, kwargs, self._rules, self._images))
            self._count_reads(tensor for tensor in tensors_in((args, kwargs)) if tensor is not output)
            return output

        return apply

    def _harmless(self, func: Callable[..., Any], output: Any) -> Any:
        """What a call without a rule returned, if no relevance could be lost in it: sizes, integers, masks."""
        values = [each for each in flat(output) if isinstance(each, float) or _is_floating_point(each)]
        if not values or func in VIEW_PROPERTIES or func in CONSTANT:
            return output
        raise self.sight.missing(shown(func))

    def _count_reads(self, tensors: Iterable[Tensor]) -> None:
        """Relevance that comes back from several calls is added up; their rule stabilises the sum."""
        for tensor in filter(carries, tensors):
            reads = self._reads[tensor] = self._reads.get(tensor, 0) + 1
            if reads == 2:
                tensor.register_hook(partial(stabilise, tensor.detach()))

    def _cast(self, value: Any) -> Any:
        return cast(value, self._images.dtype)

    def _attention(self, *args: Any, **kwargs: Any) -> Tensor:
        """The call inside ``F.multi_head_attention_forward``: sent through this mode as all others."""
        return F.scaled_dot_product_attention(*args, **kwargs)

    def _decomposed_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention as matmul, softmax, matmul; masks and position biases inside the softmax take no relevance."""
        self._check_heads(query, enable_gqa, is_causal)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        bias = additive_mask(attn_mask, query)
        scores = halved_product(torch.matmul, query, key.transpose(-2, -1))  # (B, h, Q, N)

        def softmax(scores: Tensor) -> Tensor:
            return (scores * factor + (0.0 if bias is None else bias)).softmax(-1)

        attention = with_rule(softmax, unchanged, scores)
        self.sight.mark(attention)  # of the pooler some models read it
        output = halved_product(torch.matmul, attention, value)
        self.calls.append(MappedRecord(query, key, value, output, factor, bias, map=attention))
        return output


def _is_floating_point(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
