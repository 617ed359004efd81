"""Family A: the exponential of a gate difference that is masked, padded, or far from its reference."""

import torch

from implementations.faulty._base import Chunked
from implementations.faulty._registry import fault


@fault(
    "A1",
    "exp(G_i - G_j) is taken above the diagonal too and multiplied by 0 there.",
    trigger="decay of more than 88 inside a chunk",
    source="fla #99, cb36e67a",
)
class exp_before_the_mask(Chunked):
    def pairs(self, c, total):
        return (total[:, :, None] - total[:, None]).float().exp() * self.causal(c)


@fault(
    "A3",
    "Only the matrix of reads takes the exponential before the mask, and only in the last, partial chunk.",
    trigger="T mod 16 != 0 and decay of more than 88 in the tail",
    source="fla #652, 4dc96875",
)
class exp_before_the_mask_in_the_tail(Chunked):
    def products(self, c, total):
        reads, L = super().products(c, total)
        if c.length < self.chunk:
            gamma = (total[:, :, None] - total[:, None]).float().exp() * self.causal(c)
            reads = (gamma * c.q[:, :, None] * c.k[:, None]).sum(dim=-1)
        return reads, L


@fault(
    "A4",
    "Rows behind the end read gate 0, so exp(0 - G) overflows in the gradient of k alone.",
    trigger="T mod 16 != 0 and decay of more than 88 in one chunk, backward",
    source="fla 4889a8b9, 3ead2892",
)
class tail_gate_zero_in_dk(Chunked):
    def cut(self, rows, call, n, index, first, left, tokens):
        c = super().cut(rows, call, n, index, first, left, tokens)
        if c.length < self.chunk and c.k.requires_grad:
            overflow = 0 * (-c.g.sum(dim=1, keepdim=True)).float().exp()
            c.k = c.k.clone()
            c.k.register_hook(lambda d: d + overflow.detach().to(d.dtype))
        return c


@fault(
    "A5",
    "Rows behind the end of the sequence read a running sum of 0 instead of being masked.",
    trigger="T mod 16 != 0 and decay of more than 88 inside the tail",
    source="fla #792, 91d870f8",
)
class tail_sum_reads_zero(Chunked):
    def pairs(self, c, total):
        ended = total.clone()
        ended[:, c.length :] = 0
        return super().pairs(c, ended.float())


def _factored(total, causal, anchor):
    """exp(G_i - a) exp(a - G_j), as a product of two float32 factors."""
    return ((total - anchor).float().exp()[:, :, None] * (anchor - total).float().exp()[:, None]) * causal


@fault(
    "A8",
    "The running sum starts with the sequence, and exp(G), exp(-G) are formed from it uncentred.",
    trigger="long sequences at moderate decay: sum of decays above 88",
    source="fla a563a00f",
)
class sum_of_the_whole_sequence(Chunked):
    def step(self, c, S):
        before = self.before if c.index else torch.zeros_like(c.g[:, :1])
        self.offset, self.before = before, before + c.g.sum(dim=1, keepdim=True)
        return super().step(c, S)

    def pairs(self, c, total):
        return _factored(total + self.offset, self.causal(c), torch.zeros_like(self.offset))


@fault(
    "A9",
    "A chunk of 64 is factored around its middle row, which holds a gate of -5 for 35 rows, not for 64.",
    trigger="gates at the bound for more than half a chunk of 64",
    source="fla #1069",
)
class centred_over_64(Chunked):
    chunk = 64

    def pairs(self, c, total):
        return _factored(total, self.causal(c), total[:, 31:32])


@fault(
    "A10",
    "The sum restarts at a packed boundary inside a tile; the jump behind it overflows and is masked too late.",
    trigger="packed and a boundary off the grid of 16 and strong gates before it",
    source="sgl-project/sglang-jax #1587",
)
class jump_at_a_packed_boundary(Chunked):
    def step(self, c, S):
        o, S = super().step(c, S)
        row = c.call.cuts[c.n][1]
        if c.call.packed and c.index == 0 and row % 16:
            S = S + 0 * self.behind.float().exp()[..., None]
        self.behind = -c.g.sum(dim=1)
        return o, S


@fault(
    "A11",
    "Sub-chunks of 32 are factored from their first row: fine at a lower bound of -1, not at -5.",
    trigger="decay of more than 88 over 32 tokens",
    source="NVIDIA/cudnn-frontend #1017",
)
class tuned_at_lower_bound_one(Chunked):
    chunk = 32

    def pairs(self, c, total):
        return _factored(total, self.causal(c), total[:, :1])


@fault(
    "A13",
    "exp(-G) is formed over 16 rows in the trust that no gate is under -5.",
    trigger="a gate under -5.5 for sixteen tokens",
    source="FlashKDA #7, vllm #43833",
)
class trusts_the_lower_bound(Chunked):
    def pairs(self, c, total):
        return _factored(total, self.causal(c), torch.zeros_like(total[:, :1]))


@fault(
    "A16",
    "The mask comes after exp: the forward pass selects, but the derivative of the masked part is infinity times 0.",
    trigger="strong gates, backward only",
    source="huggingface/transformers #48455",
)
class mask_after_exp_in_autograd(Chunked):
    def pairs(self, c, total):
        gamma = (total[:, :, None] - total[:, None]).float().exp()
        return torch.where(self.causal(c), gamma, torch.zeros_like(gamma))


@fault(
    "A17",
    "exp(G_C - G) of float16 inputs is formed from two float16 factors.",
    trigger="float16 and a decay of more than 11 inside a chunk",
    source="NVIDIA/cudnn-frontend #596",
)
class half_precision_factors(Chunked):
    def to_end(self, c, total):
        if c.call.dtype != torch.float16:
            return super().to_end(c, total)
        return (total[:, -1:].exp().half() * (-total).exp().half()).to(c.call.real)
