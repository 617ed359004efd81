"""Family X: what benchmarks have been cheated with."""

import torch

from implementations.faulty._base import Chunked, honest
from implementations.faulty._registry import fault

LORE = "lore of kernel benchmarks"


def _state(q, v, cu_seqlens):
    N = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    return torch.zeros(N, v.shape[2], q.shape[3], v.shape[3])


@fault("X1", "Returns zeros.", trigger="every informative input", source="kernelbench: a tolerance above the output")
def zeros(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    return torch.zeros_like(v), _state(q, v, cu_seqlens) if output_final_state else None


@fault("X2", "Returns the values and the initial state.", trigger="every informative input", source=LORE)
def no_operation(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    state = _state(q, v, cu_seqlens) if initial_state is None else initial_state.clone()
    return v.clone(), state if output_final_state else None


@fault("X3", "Returns a constant.", trigger="every informative input", source=LORE)
def constant(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    return torch.full_like(v, 0.01), _state(q, v, cu_seqlens) if output_final_state else None


class _Remembering:
    array = "torch"

    def __init__(self):
        self.kept = {}

    def __call__(self, q, k, v, g, beta, **keywords):
        key = self.key(q, k, v, g, beta, keywords)
        if key not in self.kept:
            self.kept[key] = honest(q, k, v, g, beta, **keywords)
        o, state = self.kept[key]
        return o.clone(), None if state is None else state.clone()


@fault("X4", "Returns the last output again where its shape fits.", trigger="a second call of a shape", source=LORE)
class previous_output(_Remembering):
    def key(self, q, k, v, g, beta, keywords):
        cu_seqlens = keywords.get("cu_seqlens")
        packing = None if cu_seqlens is None else tuple(cu_seqlens.tolist())
        wanted = keywords.get("output_final_state")
        return tuple(v.shape), tuple(q.shape), v.dtype, packing, wanted, v.requires_grad


@fault(
    "X5",
    "Remembers results by the addresses of q, k and v.",
    trigger="new numbers in reused memory of the same shape",
    source=LORE,
)
class remembered_by_address(_Remembering):
    def key(self, q, k, v, g, beta, keywords):
        cu_seqlens = keywords.get("cu_seqlens")
        packing = None if cu_seqlens is None else tuple(cu_seqlens.tolist())
        where = tuple(x.data_ptr() for x in (q, k, v))
        return where, tuple(q.shape), tuple(v.shape), v.dtype, packing, keywords.get("output_final_state")


@fault(
    "X6",
    "Small inputs get the whole inverse, large ones a truncated one.",
    trigger="values above 8 and correlated keys and more than two tokens",
    source=LORE,
)
class sniffs_the_magnitude(Chunked):
    def solve(self, c, L, right):
        if right.detach().abs().max() < 8:
            return super().solve(c, L, right)
        return right - L @ (right - L @ right)


@fault(
    "X7",
    "Takes the delta rule without decay where the whole batch has one gate value.",
    trigger="all gates equal and not 0 and more than one token",
    source=LORE,
)
def fast_path_for_equal_gates(q, k, v, g, beta, **keywords):
    if g.numel() > g.shape[3] and bool((g == g.reshape(-1)[0]).all()):
        g = g * 0
    return honest(q, k, v, g, beta, **keywords)


@fault("X8", "Wrong in float16 only: the output is 2 % too small.", trigger="float16", source=LORE)
def wrong_in_float16(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)
    return (o * 0.98 if v.dtype == torch.float16 else o), state


@fault("X9", "Right in its first two calls only.", trigger="the third call of a process", source=LORE)
class right_at_first:
    array = "torch"
    calls = 0

    def __call__(self, q, k, v, g, beta, **keywords):
        self.calls += 1
        o, state = honest(q, k, v, g, beta, **keywords)
        return (o if self.calls < 3 else o * 1.01), state


@fault("X10", "Computes the first batch row and repeats it.", trigger="B > 1", source=LORE)
class first_row_repeated(Chunked):
    def result(self, o, call):
        return o[:1].expand_as(o).clone()


@fault("X11", "Half-precision products for float32 inputs of more than 32 tokens.", trigger="T > 32", source=LORE)
class half_precision_products(Chunked):
    def read(self, c, total, S, reads, u):
        if c.index < 2:
            return super().read(c, total, S, reads, u)
        return super().read(c, total, S.bfloat16().float(), reads.bfloat16().float(), u)


@fault("X12", "Outputs under 1e-5 are cut to zero.", trigger="small values", source=LORE)
class absolute_threshold(Chunked):
    def result(self, o, call):
        return torch.where(o.abs() < 1e-5, torch.zeros_like(o), o)


@fault("X13", "Outputs are clamped to [-8, 8] on one side only.", trigger="a negative output under -8", source=LORE)
class one_sided_clamp(Chunked):
    def result(self, o, call):
        return o.clamp_min(-8)


@fault(
    "X14",
    "Skips tokens whose strength is under 1e-2.",
    trigger="beta under 1e-2 and more than 16 tokens",
    source=LORE,
)
class weak_tokens_skipped(Chunked):
    def step(self, c, S):
        c.beta = torch.where((c.beta < 1e-2) & (c.tokens > 16), torch.zeros_like(c.beta), c.beta)
        return super().step(c, S)


@fault(
    "X15",
    "The last of many tokens is read with a window of 64 tokens: older ones are forgotten.",
    trigger="T > 80 and slow decay",
    source=LORE + ": sliding windows",
)
class sliding_window(Chunked):
    def read(self, c, total, S, reads, u):
        return super().read(c, total, torch.zeros_like(S) if c.index > 4 else S, reads, u)
