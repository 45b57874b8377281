import time
import warnings
from fractions import Fraction

import pytest
import torch
from oracle import exact, plain_pass, random_attention
from torch import Tensor

from captum_vit import AttentionFlow
from captum_vit.attr import attention_flow, attention_rollout
from captum_vit.attr.flow_network import FlowNetwork


def edmonds_karp(capacity: dict, source, sink) -> Fraction:
    """Shortest augmenting paths in exact fractions, edge by edge."""
    left = {node: dict(edges) for node, edges in capacity.items()}
    for node, edges in capacity.items():
        for other in edges:
            left.setdefault(other, {}).setdefault(node, Fraction(0))
    total = Fraction(0)
    while True:
        came, waiting = {source: None}, [source]
        while waiting and sink not in came:
            node = waiting.pop(0)
            for other, room in left[node].items():
                if room > 0 and other not in came:
                    came[other] = node
                    waiting.append(other)
        if sink not in came:
            return total
        path, node = [], sink
        while came[node] is not None:
            path.append((came[node], node))
            node = came[node]
        most = min(left[tail][head] for tail, head in path)
        for tail, head in path:
            left[tail][head] -= most
            left[head][tail] += most
        total += most


def flows(
    attentions: list[Tensor], shares: list[float], residual: float, sinks: list[int] | None = None
) -> list[float]:
    """arXiv:2005.00928, section 3, of one image with fused heads: a node for each token and layer."""
    tokens, depth = len(shares), len(attentions)
    capacity = {"pooled": {(depth, i): Fraction(share) for i, share in enumerate(shares)}}
    for layer, attention in enumerate(attentions, 1):
        for i in range(tokens):
            row = [(1 - residual) * float(attention[i, j]) + residual * (i == j) for j in range(tokens)]
            capacity[layer, i] = {(layer - 1, j): Fraction(value) / Fraction(sum(row)) for j, value in enumerate(row)}
    return [float(edmonds_karp(capacity, "pooled", (0, j))) for j in (range(tokens) if sinks is None else sinks)]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("residual", [0.5, 0.1])
@pytest.mark.parametrize("widest", [1, 16])
def test_is_the_maximum_flow(monkeypatch, depth, residual, widest):
    """Also where the widest edges are tried first and do not do."""
    monkeypatch.setattr("captum_vit.attr.flow_network._WIDEST", widest)
    attentions = [random_attention(2, 2, 5, 5, seed=seed) for seed in range(depth)]
    actual = attention_flow(attentions, residual=residual)
    expected = [flows([a[image].mean(0) for a in attentions], [1, 0, 0, 0, 0], residual) for image in range(2)]
    exact(actual, torch.tensor(expected, dtype=torch.float64))


def test_starts_anywhere():
    attentions = [random_attention(1, 1, 4, 4, seed=seed) for seed in range(3)]
    shares = torch.tensor([0.5, 0.125, 0.25, 0.125])
    exact(
        attention_flow(attentions, start=shares)[0],
        torch.tensor(flows([a[0, 0] for a in attentions], shares.tolist(), 0.5), dtype=torch.float64),
    )


def test_one_block_is_its_row_and_two_blocks_are_the_narrower_of_two_steps():
    first, last = (random_attention(2, 3, 6, 6, seed=seed) for seed in range(2))
    exact(attention_flow([last], residual=0.0), last.mean(1)[:, 0])
    steps = torch.minimum(last.mean(1)[:, 0, :, None], first.mean(1))
    exact(attention_flow([first, last], residual=0.0), steps.sum(1))


def test_is_never_less_than_the_rollout_nor_more_than_what_leaves_or_arrives():
    """The rollout's products are a flow; what arrives is bounded by the first block's columns."""
    attentions = [random_attention(3, 2, 7, 7, seed=seed) for seed in range(4)]
    flow, rollout = attention_flow(attentions), attention_rollout(attentions)
    arriving = (attentions[0].mean(1) / 2 + torch.eye(7, dtype=torch.float64) / 2).sum(1)
    assert (flow >= rollout - 1e-12).all()
    assert (flow <= torch.minimum(arriving, torch.ones(())) + 1e-12).all()


def test_max_fusion_and_chosen_sinks():
    attentions = [random_attention(1, 3, 5, 5, seed=seed) for seed in range(3)]
    largest = [a.amax(1, keepdim=True) for a in attentions]
    whole = attention_flow(largest)
    exact(attention_flow(attentions, head_fusion="max"), whole)
    exact(attention_flow(attentions, head_fusion="max", sinks=[4, 1]), whole[:, [4, 1]])


def test_the_pooler_is_where_the_flow_starts():
    attentions = [random_attention(1, 2, 4, 4, seed=seed) for seed in range(2)]
    pooler = random_attention(1, 2, 1, 4, seed=7)
    largest = pooler.amax(1)[0, 0]
    exact(
        attention_flow(attentions, pooler=pooler, head_fusion="max"),
        attention_flow(attentions, start=largest / largest.sum(), head_fusion="max"),
    )


def test_the_whole_network_is_searched_only_for_sinks_that_need_it(monkeypatch):
    attentions = [random_attention(1, 1, 20, 20, seed=seed) for seed in range(6)]
    called = []
    original = FlowNetwork._called
    monkeypatch.setattr(
        FlowNetwork, "_called", lambda *args: called.append([len(each) for each in args[2]]) or original(*args)
    )
    flow = attention_flow(attentions)
    first_block_alone = (attentions[0][:, 0].sum(1) / 2 + 0.5).clamp(max=1)
    exact(flow, first_block_alone)
    assert len(called) == 1
    assert max(called[0]) < 20 + 6 * 20 * 20
    monkeypatch.setattr("captum_vit.attr.flow_network._WIDEST", 1)
    exact(attention_flow(attentions), first_block_alone)
    assert set(called[-1]) == {20 + 6 * 20 * 20}


def test_calls_that_are_split_give_the_same_flows(monkeypatch):
    attentions = [random_attention(2, 2, 5, 5, seed=seed) for seed in range(3)]
    whole = attention_flow(attentions)
    monkeypatch.setattr("captum_vit.attr.flow_network._EDGES_PER_CALL", 170)  # two sinks at a time
    exact(attention_flow(attentions), whole)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass in the solver: ``clock(sink)`` for each problem, and none elsewhere."""
    now = [0.0]
    original = FlowNetwork.flows

    def set_clock(seconds):
        def flows(network, sinks):
            now[0] += sum(seconds(int(sink)) for sink in sinks)
            return original(network, sinks)

        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        monkeypatch.setattr("captum_vit.attr.flow_network._EDGES_PER_CALL", 1)  # one sink at a time
        monkeypatch.setattr(FlowNetwork, "flows", flows)

    return set_clock


def warned(attentions, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow = attention_flow(attentions, **options)
    return flow, [str(each.message) for each in caught]


def test_the_expected_time_is_that_of_all_images_and_sinks(clock):
    attentions = [random_attention(3, 1, 9, 9, seed=seed) for seed in range(2)]
    plain, messages = warned(attentions)
    assert messages == []
    clock(lambda _: 1.5)
    flow, messages = warned(attentions, warn_above=40.0)  # 3 images with 9 sinks, 1.5 s each
    exact(flow, plain)
    assert messages == [
        "Attention Flow solves 27 maximum-flow problems (3 images with 9 sinks) on networks of 171 edges, by a rough "
        "estimate 40 s in all: the first 4 took 6.0 s. Attention Rollout takes a moment. To silence this raise "
        "warn_above, which is 40 s."
    ]
    assert warned(attentions, warn_above=41.0)[1] == []
    assert warned(attentions, warn_above=float("inf"))[1] == []
    assert warned([each[:1] for each in attentions], warn_above=20.0)[1] == []
    assert len(warned([each[:2] for each in attentions], warn_above=20.0)[1]) == 1


def test_the_first_problem_alone_decides_nothing(clock):
    """The sink that is first is cheap, or dear, unlike most; those that are judged lie spread."""
    attentions = [random_attention(1, 1, 30, 30)]
    clock(lambda sink: 60.0 if sink == 0 else 0.1)
    assert "by a rough estimate" in warned(attentions, warn_above=50.0)[1][0]  # it takes longer already
    clock(lambda sink: 2.0 if sink == 0 else 0.1)
    assert warned(attentions, warn_above=20.0)[1] == []  # 60 s by the first alone, 17 s by four
    clock(lambda sink: 0.0 if sink < 3 else 3.0)
    assert "first 4 took 9.0 s" in warned(attentions, warn_above=60.0)[1][0]


def test_sinks_without_number_are_no_problem():
    assert attention_flow([random_attention(2, 1, 5, 5)], sinks=[]).shape == (2, 0)


@pytest.mark.parametrize("start_block", [0, 1])
def test_method_takes_the_attention_of_the_blocks_from_the_start_block_on(vit, images, start_block):
    maps = [a.mean(1).detach() for a in plain_pass(vit, images[:1]).attentions]
    actual = AttentionFlow(vit, start_block=start_block).attribute(images[:1], resolution="patch")
    expected = flows([a[0] for a in maps[start_block:]], [1] + [0] * 24, 0.5, sinks=[1, 14])
    exact(actual.flatten()[[0, 13]], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_fusion": "sum"}, "head_fusion must be 'mean', 'max' or 'min', got 'sum'"),
        ({"residual": 1.5}, r"residual must be in \[0, 1\], got 1\.5"),
        ({"start_block": 3}, r"start_block must be in \[-3, 2\], got 3"),
        ({"warn_above": -5}, "warn_above must be at least 0, got -5"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionFlow(vit, **options)
