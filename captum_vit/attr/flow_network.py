"""Maximum flows from a source down through layers of fully connected nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ["FlowNetwork"]

_RESOLUTION = 2**30
"""Units that a capacity of 1 is cut into: scipy's solver counts in 32-bit integers."""

_EDGES_PER_CALL = 2_000_000
_WIDEST = 16
"""Edges out of a token and into a token through which the flow is tried first."""

_UNBOUNDED = np.iinfo(np.int32).max


@dataclass(frozen=True)
class FlowNetwork:
    """The edges of one image's flow network; node l·N + i is token i after block l, and -1 the source."""

    tails: NDArray[np.int64]
    heads: NDArray[np.int64]
    capacities: NDArray[np.float64]
    wide: NDArray[np.bool_]  # whether an edge is among the widest of its tail or head, or of the token most pooled
    tokens: int

    @classmethod
    def of(cls, shares: NDArray[np.float64], layers: NDArray[np.float64]) -> FlowNetwork:
        """From the shares of the tokens in the pooled vector (N,) and the maps of all blocks (L, N, N)."""
        depth, tokens, _ = layers.shape
        block, query, key = np.indices(layers.shape).reshape(3, -1)
        least = max(tokens - _WIDEST, 0)
        wide = layers >= np.partition(layers, least, 2)[:, :, least, None]
        wide |= layers >= np.partition(layers, least, 1)[:, least, None]
        wide[:, shares.argmax()] = True
        return cls(
            tails=np.concatenate([np.full(tokens, -1), (block + 1) * tokens + query]),
            heads=np.concatenate([np.arange(tokens) + depth * tokens, block * tokens + key]),
            capacities=np.concatenate([shares, layers.ravel()]),
            wide=np.concatenate([np.ones(tokens, dtype=bool), wide.ravel()]),
            tokens=tokens,
        )

    @property
    def sinks_at_once(self) -> int:
        """How many sinks one call of the solver takes when the whole network is searched."""
        return max(1, _EDGES_PER_CALL // len(self.tails))

    def flows(self, sinks: NDArray[np.int64]) -> NDArray[np.float64]:
        """The maximum flow to each sink (S,).

        Mostly as much arrives as leaves the source, or as the sink's own edges can take, and already through the widest
        edges: then that is the maximum. The whole network is searched for the other sinks only.
        """
        units, flows = self._bounds(self._units, sinks), self._bounds(self.capacities, sinks)
        wide = np.flatnonzero(self.wide)
        to_first = np.arange(self.tokens, len(self.tails), self.tokens)  # the edges to the first token of each layer

        def wide_or_own(sink: np.int64) -> NDArray[np.int64]:
            own = to_first + sink
            return np.concatenate([wide, own[~self.wide[own]]])

        arriving, _ = self._solved(sinks, wide_or_own)
        short = arriving < units
        if short.any():
            _, flows[short] = self._solved(sinks[short], lambda _: np.arange(len(self.tails)))
        return flows

    def _bounds(self, widths: NDArray[Any], sinks: NDArray[np.int64]) -> NDArray[np.float64]:
        """The narrowest of three cuts: edges of the source, edges of the tokens that it reaches, edges of each sink."""
        source = self.tails < 0
        after = np.isin(self.tails, self.heads[source & (self.capacities > 0)])
        last = self.heads < self.tokens
        arriving = np.bincount(self.heads[last], widths[last], self.tokens)[sinks]
        bounds: NDArray[np.float64] = np.minimum(arriving, min(widths[source].sum(), widths[after].sum()))
        return bounds

    @cached_property
    def _units(self) -> NDArray[np.int64]:
        return np.rint(self.capacities * _RESOLUTION).astype(np.int64)

    def _solved(
        self, sinks: NDArray[np.int64], edges_for: Callable[[np.int64], NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The flow to each sink (S,) through some of the edges, in units, and the capacity of its minimum cut (S,)."""
        per_call = max(1, _EDGES_PER_CALL // len(edges_for(sinks[0])))
        parts = [sinks[first : first + per_call] for first in range(0, len(sinks), per_call)]
        arriving, cuts = zip(*(self._called(part, [edges_for(sink) for sink in part]) for part in parts), strict=True)
        return np.concatenate(arriving), np.concatenate(cuts)

    def _called(
        self, sinks: NDArray[np.int64], edges: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """One call of the solver, on a copy of the network for each sink, side by side."""
        size, copies = int(self.heads.max()) + 1, np.arange(len(sinks))
        source, drain = len(sinks) * size, len(sinks) * size + 1
        copy, edge = np.repeat(copies, [len(each) for each in edges]), np.concatenate(edges)
        tails = np.where(self.tails[edge] < 0, source, self.tails[edge] + copy * size)
        heads, ends = self.heads[edge] + copy * size, sinks + copies * size
        graph = csr_array(
            (
                np.concatenate([self._units[edge], np.full(len(sinks), _UNBOUNDED)]).astype(np.int32),
                (np.concatenate([tails, ends]), np.concatenate([heads, np.full(len(sinks), drain)])),
            ),
            shape=(drain + 1, drain + 1),
        )
        flow = maximum_flow(graph, source, drain).flow  # from a node to another positive, the way back negative
        left = graph - flow
        left.data[left.data < 0] = 0
        left.eliminate_zeros()
        reached = np.zeros(drain + 1, dtype=bool)
        reached[breadth_first_order(left, source, return_predecessors=False)] = True
        cut = reached[tails] & ~reached[heads]
        arriving: NDArray[np.int64] = -flow[[drain]].toarray()[0, ends]
        capacity = np.bincount(copy, self.capacities[edge] * cut, len(sinks)).astype(np.float64)
        return arriving, capacity
