"""Faults of a fourth trial without knowledge of the laws; see `blind.py`. These five were missed at first."""

import numpy as np
import torch

from implementations.faulty._base import Chunked, altered
from implementations.faulty._base_numpy import Loop
from implementations.faulty._registry import fault

SOURCE = "fourth blind trial of the laws"


@fault(
    "A20",
    "Whether a chunk forgets everything, so that nothing is carried, is seen from the first 64 channels.",
    trigger="K > 64 and channels that forget beside channels that keep",
    source=f"{SOURCE}; a test on the block of channels that is at hand",
)
class forgets_by_the_first_block(Chunked):
    def whole(self, c, total):
        kept = super().whole(c, total)
        return kept * 0 if bool((kept.detach()[:, :64] < 1e-9).all()) else kept


@fault(
    "B14",
    "The state is handed from one segment of 256 tokens to the next in the dtype of the values.",
    trigger="T > 256 and half precision",
    source=f"{SOURCE}; a workspace that is allocated like v",
)
class state_between_segments_in_half(Chunked):
    def carry(self, c, total, S, u):
        S = super().carry(c, total, S, u)
        return S.to(c.call.dtype).to(S.dtype) if self.borders(c, 256) else S


@fault(
    "D21",
    "The last tile of 128 value columns begins early where V is no multiple, and its state is added once more.",
    trigger="V > 128 and no multiple of it",
    source=f"{SOURCE}; overlapping tiles that accumulate",
)
class last_value_tile_added_twice(Chunked):
    def final(self, S, n, call):
        twice = torch.zeros(call.shape.V)
        if call.shape.V > 128:
            twice[-128 : call.shape.V // 128 * 128] = 1.0
        return S + S * twice


@fault(
    "D22",
    "Sums over more than 64 channels are taken in two halves of K // 2.",
    trigger="K odd and over 64",
    source=f"{SOURCE}; split sums",
    array="numpy",
)
class split_sums_of_an_odd_width(Loop):
    def held(self, x, S):
        return super().held(x, self._even(S))

    def read(self, x, S):
        return super().read(x, self._even(S))

    def _even(self, S):
        K = S.shape[1]
        return S * (np.arange(K) < (K // 2 * 2 if K > 64 else K))[:, None]


@fault(
    "J19",
    "The walk backwards begins each segment of 512 tokens with no gradient of its last state.",
    trigger="backward and T > 512 and a state that lasts",
    source=f"{SOURCE}; states kept for recomputing, gradients that are not",
)
class state_gradient_cut_between_segments(Chunked):
    def carry(self, c, total, S, u):
        S = super().carry(c, total, S, u)
        return altered(S, torch.zeros_like) if self.borders(c, 512) and S.requires_grad else S
