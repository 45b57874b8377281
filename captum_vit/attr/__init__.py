"""Attribution methods for vision transformers, one file each, with the pure function of each formula beside it."""

from captum_vit.attr.attention_cam import AttentionCAM, attention_cam
from captum_vit.attr.attention_flow import AttentionFlow, attention_flow
from captum_vit.attr.attention_guided_cam import AttentionGuidedCAM, attention_guided_cam
from captum_vit.attr.attention_rollout import AttentionRollout, attention_rollout
from captum_vit.attr.attnlrp import AttnLRP
from captum_vit.attr.background_suppression import BackgroundSuppression, suppress_background
from captum_vit.attr.base import BlankMapError, ViTAttribution, upsample
from captum_vit.attr.bidirectional_attention import (
    BidirectionalAttention,
    bidirectional_attention,
    head_importance,
)
from captum_vit.attr.caap import CAAP, neighbourhoods
from captum_vit.attr.chefer_cam import CheferCAM, chefer_cam
from captum_vit.attr.gem import GEM, self_self_attention
from captum_vit.attr.gmar import GMAR, gmar, gmar_head_norms, gmar_rollout
from captum_vit.attr.grad_cam import GradCAM, grad_cam
from captum_vit.attr.grad_cam_plus_plus import GradCAMPlusPlus, grad_cam_plus_plus
from captum_vit.attr.grad_eclip import GradECLIP, grad_eclip
from captum_vit.attr.gradient_rollout import GradientRollout, gradient_rollout
from captum_vit.attr.hires_cam import HiResCAM, hires_cam
from captum_vit.attr.layer_cam import LayerCAM, layer_cam
from captum_vit.attr.legrad import LeGrad, legrad
from captum_vit.attr.libragrad import LibraGrad, libragrad
from captum_vit.attr.masked_sinks import MaskedSinks, find_sinks, replace_sinks
from captum_vit.attr.needs import Need
from captum_vit.attr.raw_attention import RawAttention, raw_attention
from captum_vit.attr.recipro_cam import ReciproCAM, reciprocal_masks
from captum_vit.attr.registers import TestTimeRegisters, find_register_neurons
from captum_vit.attr.relevance import LRP, PartialLRP, TransformerAttribution
from captum_vit.attr.text_attribution import TextAttribution
from captum_vit.attr.text_span import Contributions, TextSpan, direct_effects
from captum_vit.attr.token_tm import TokenTM, token_tm, transformation_weights
from captum_vit.attr.transition_attention_maps import TransitionAttentionMaps, transition_attention_maps
from captum_vit.attr.vit_cx import ViTCX, cluster_masks, coverage
from captum_vit.attr.wrapper import MethodWrapper

__all__ = [
    "CAAP",
    "GEM",
    "GMAR",
    "LRP",
    "METHODS",
    "WRAPPERS",
    "AttentionCAM",
    "AttentionFlow",
    "AttentionGuidedCAM",
    "AttentionRollout",
    "AttnLRP",
    "BackgroundSuppression",
    "BidirectionalAttention",
    "BlankMapError",
    "CheferCAM",
    "Contributions",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradECLIP",
    "GradientRollout",
    "HiResCAM",
    "LayerCAM",
    "LeGrad",
    "LibraGrad",
    "MaskedSinks",
    "Need",
    "PartialLRP",
    "RawAttention",
    "ReciproCAM",
    "TestTimeRegisters",
    "TextAttribution",
    "TextSpan",
    "TokenTM",
    "TransformerAttribution",
    "TransitionAttentionMaps",
    "ViTAttribution",
    "ViTCX",
    "attention_cam",
    "attention_flow",
    "attention_guided_cam",
    "attention_rollout",
    "bidirectional_attention",
    "chefer_cam",
    "cluster_masks",
    "coverage",
    "direct_effects",
    "find_register_neurons",
    "find_sinks",
    "gmar",
    "gmar_head_norms",
    "gmar_rollout",
    "grad_cam",
    "grad_cam_plus_plus",
    "grad_eclip",
    "gradient_rollout",
    "head_importance",
    "hires_cam",
    "layer_cam",
    "legrad",
    "libragrad",
    "neighbourhoods",
    "raw_attention",
    "reciprocal_masks",
    "replace_sinks",
    "self_self_attention",
    "suppress_background",
    "token_tm",
    "transformation_weights",
    "transition_attention_maps",
    "upsample",
]

METHODS: dict[str, type[ViTAttribution]] = {
    "raw-attention": RawAttention,
    "attention-rollout": AttentionRollout,
    "gmar": GMAR,
    "legrad": LeGrad,
    "chefer-cam": CheferCAM,
    "attention-cam": AttentionCAM,
    "gradient-rollout": GradientRollout,
    "grad-cam": GradCAM,
    "grad-cam-plus-plus": GradCAMPlusPlus,
    "hires-cam": HiResCAM,
    "layer-cam": LayerCAM,
    "attention-guided-cam": AttentionGuidedCAM,
    "attnlrp": AttnLRP,
    "grad-eclip": GradECLIP,
    "gem": GEM,
    "text-span": TextSpan,
    "transformer-attribution": TransformerAttribution,
    "partial-lrp": PartialLRP,
    "lrp": LRP,
    "attention-flow": AttentionFlow,
    "transition-attention-maps": TransitionAttentionMaps,
    "vit-cx": ViTCX,
    "recipro-cam": ReciproCAM,
    "caap": CAAP,
    "token-tm": TokenTM,
    "bi-attn": BidirectionalAttention,
}
"""Every method by its command-line name."""

WRAPPERS: dict[str, type[MethodWrapper]] = {
    "background-suppression": BackgroundSuppression,
    "libragrad": LibraGrad,
    "masked-sinks": MaskedSinks,
    "test-time-registers": TestTimeRegisters,
}
"""What goes around a method, by the name that `captum_vit.evaluation.explainer_of` takes."""
