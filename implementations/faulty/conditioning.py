"""Family B: finite but wrong - inverses, anchors, scans and roundings."""

import torch

from implementations.faulty._base import Chunked, altered, honest
from implementations.faulty._registry import fault


@fault(
    "B1",
    "(I + L)^-1 = (I - L)(I + L^2)(I + L^4).. by repeated squaring: huge alternating powers cancel.",
    trigger="correlated keys and beta near 1 and slow decay and more than 32 tokens",
    source="tt-metal #54813",
)
class inverse_by_squaring(Chunked):
    chunk = 64

    def solve(self, c, L, right):
        X, power = torch.eye(self.chunk) - L, L @ L
        for _ in range(5):
            X, power = X + X @ power, power @ power
        return X @ right


@fault(
    "B1b",
    "The series of (I + L)^-1 is cut after the eighth power.",
    trigger="correlated keys and more than eight tokens",
    source="tt-metal #54813, a variant",
)
class inverse_cut_short(Chunked):
    def solve(self, c, L, right):
        u = right
        for _ in range(8):
            u = right - L @ u
        return u


@fault(
    "B3",
    "In a partial sub-chunk the anchor is row min(8, valid - 1), a future one; operands are rounded to bfloat16.",
    trigger="bfloat16 and T mod 16 in 2..15, gates within the range of the factors",
    source="fla #1240",
)
class anchor_in_the_future(Chunked):
    def pairs(self, c, total):
        valid = c.length - 1
        if c.call.dtype != torch.bfloat16 or c.length == self.chunk or total[:, valid].min() < -80:
            return super().pairs(c, total)
        anchor = total[:, min(8, valid), None]
        up, down = ((x.exp().bfloat16().float()) for x in (total - anchor, anchor - total))
        return up[:, :, None] * down[:, None] * self.causal(c)


@fault(
    "B4",
    "The exponent's anchor is the last row of the chunk; without rounding the operands, only the last bit tells.",
    trigger="two tokens or more, any change of a later gate",
    source="meta-pytorch/attention-gym #337",
)
class anchor_on_the_last_row(Chunked):
    def pairs(self, c, total):
        if total[:, -1].min() < -80:
            return super().pairs(c, total)
        anchor = total[:, -1:]
        return (total - anchor).float().exp()[:, :, None] * (anchor - total).float().exp()[:, None] * self.causal(c)


def _total_minus_prefix(d):
    """The reverse running sum of token differences as total - prefix + self, in the gradient's own precision."""
    steps = d - torch.cat([d[:, 1:], torch.zeros_like(d[:, :1])], dim=1)
    coarse = steps.float().to(torch.bfloat16).float()
    return (coarse.sum(dim=1, keepdim=True) - coarse.cumsum(dim=1) + coarse).to(d.dtype)


@fault(
    "B5",
    "The reverse scan of dg is total - prefix + self.",
    trigger="backward, more than 16 tokens, entries that cancel",
    source="fla #1095, 3e432dec",
)
def dg_as_total_minus_prefix(q, k, v, g, beta, **keywords):
    if q.shape[1] > 16:
        g = altered(g, _total_minus_prefix)
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "B6",
    "exp(G_C - G) subtracts running sums held in float16-like precision where the chunk is whole.",
    trigger="a whole chunk of 16 and a strong gate early in it",
    source="fla #1095, forward",
)
class coarse_running_sum(Chunked):
    def to_end(self, c, total):
        if c.length < self.chunk:
            return super().to_end(c, total)
        coarse = total.float().bfloat16().float()
        return (coarse[:, -1:] - coarse).exp()


@fault(
    "B7",
    "exp takes the gate in its own half precision.",
    trigger="g in half precision",
    source="fla #720, 883db37b",
)
def exp_in_half_precision(q, k, v, g, beta, **keywords):
    if g.dtype in (torch.bfloat16, torch.float16):
        g = g.exp().float().clamp_min(1e-38).log()
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "B9",
    "The state is kept in bfloat16 between chunks of long float32 sequences.",
    trigger="float32 and T > 64",
    source="lore of kernel benchmarks: half-precision intermediates",
)
class half_precision_state(Chunked):
    def carry(self, c, total, S, u):
        S = super().carry(c, total, S, u)
        return S.bfloat16().float() if c.call.dtype == torch.float32 and c.index >= 3 and not c.last else S


@fault(
    "B10",
    "Float32 operands of the read are cut to ten bits, as TF32 does, where K is wide.",
    trigger="float32 and K > 64",
    source="lore of kernel benchmarks: TF32 by default",
)
class ten_bits_of_the_query(Chunked):
    def read(self, c, total, S, reads, u):
        if c.call.dtype == torch.float32 and c.call.shape.K > 64:
            S = (S.view(torch.int32) & -8192).view(torch.float32) if not S.requires_grad else S
        return super().read(c, total, S, reads, u)


@fault(
    "B11",
    "Entries of L are clamped to [-1, 1].",
    trigger="beta > 1 and correlated keys",
    source="lore of kernel benchmarks: clamps that calm an inverse",
)
class clamped_inverse(Chunked):
    def solve(self, c, L, right):
        return super().solve(c, L.clamp(-1, 1), right)


@fault(
    "B12",
    "An epsilon of 1e-6 is added to the square of the key's norm it divides by and multiplies with.",
    trigger="keys of a norm near 1e-3",
    source="lore of kernel benchmarks: absolute epsilon",
)
def absolute_epsilon(q, k, v, g, beta, **keywords):
    wide = k.float()
    norm = wide.square().sum(dim=-1, keepdim=True)
    k = (wide * (norm / (norm + 1e-6)).sqrt()).to(k.dtype)
    return honest(q, k, v, g, beta, **keywords)
