"""Family J: gradients wrong where the forward pass is right."""

import torch

from implementations.faulty._base import Chunked, altered, honest
from implementations.faulty._registry import fault


@fault(
    "J1",
    "dg comes from one block of 32 channels only; the others overwrite each other.",
    trigger="backward and K > 32",
    source="fla 7d808a33",
)
def dg_of_one_block(q, k, v, g, beta, **keywords):
    if g.shape[3] > 32:
        g = altered(g, lambda d: torch.cat([d[..., :32], torch.zeros_like(d[..., 32:])], dim=-1))
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "J2",
    "dk of the last row of a ragged tail misses what comes back through the final state.",
    trigger="backward and T mod 16 != 0 and a cotangent of the final state",
    source="flash-linear-attention-npu #544",
)
class dk_of_the_last_row(Chunked):
    def carry(self, c, total, S, u):
        if c.last and c.length < self.chunk:
            k = c.k.clone()
            k[:, c.length - 1] = k[:, c.length - 1].detach()
            c.k = k
        return super().carry(c, total, S, u)


@fault(
    "J3",
    "The gradient of the initial state is not returned for short sequences.",
    trigger="backward and T < 16 and a state given",
    source="fla #1140, a252c17d",
)
class state_gradient_missing(Chunked):
    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        _, start, stop = call.cuts[n]
        return S.detach() if 0 < stop - start < 16 else S


@fault(
    "J4",
    "Gradients stop at every fourth chunk boundary, as in truncated backpropagation.",
    trigger="backward and T > 64",
    source="lore of training kernels: a detached carry",
)
class carry_detached(Chunked):
    def carry(self, c, total, S, u):
        S = super().carry(c, total, S, u)
        return S.detach() if c.index == 3 and not c.last else S


@fault(
    "J5",
    "The gradient of the final state is dropped for packed sequences.",
    trigger="backward and packed and a cotangent of the final state",
    source="lore of varlen kernels: dht ignored",
)
class packed_state_cotangent_dropped(Chunked):
    def final(self, S, n, call):
        return altered(S, torch.zeros_like) if call.packed and S.requires_grad else S


@fault(
    "J6",
    "A division by the norm makes gradients of zero keys NaN.",
    trigger="backward and a key that is zero",
    source="AI-Hypercomputer/maxtext #5294",
)
def zero_keys_give_nan(q, k, v, g, beta, **keywords):
    norm = k.detach().float().norm(dim=-1, keepdim=True)
    k = altered(k, lambda d: (d.float() * norm / norm).to(d.dtype))
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "J7",
    "Gradients of packed sequences leak: dk of a sequence's first token is added to the token before.",
    trigger="backward and packed and a second sequence",
    source="fla e4a870a3, gradient side",
)
def dk_leaks_over_the_boundary(q, k, v, g, beta, *, cu_seqlens=None, **keywords):
    if cu_seqlens is not None:
        inner = [int(x) for x in cu_seqlens.unique()[1:-1]]

        def leak(d):
            d = d.clone()
            for at in inner:
                d[:, at - 1] += d[:, at]
            return d

        k = altered(k, leak)
    return honest(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)


@fault(
    "J8",
    "dbeta is accumulated in float16 for float32 inputs.",
    trigger="backward and float32",
    source="lore of training kernels: half-precision accumulators",
)
def dbeta_in_half_precision(q, k, v, g, beta, **keywords):
    if beta.dtype == torch.float32:
        beta = altered(beta, lambda d: d.half().float())
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "J9",
    "dq and dk of grouped heads come from the last value head alone.",
    trigger="backward and HV > H",
    source="fla da022352, gradient side",
)
class last_head_of_the_group(Chunked):
    def heads(self, x, call):
        x = super().heads(x, call)
        group = call.shape.HV // call.shape.H
        keep = (torch.arange(x.shape[2]) % group == group - 1).to(x.dtype)[:, None]
        return altered(x, lambda d: d * keep) if group > 1 and x.requires_grad else x


@fault(
    "J10",
    "dg is masked where the gate is exactly 0.",
    trigger="backward and a gate of 0 with a state to decay",
    source="lore of training kernels: where(g < 0) kept from a clamp",
)
def dg_zero_at_zero(q, k, v, g, beta, **keywords):
    keep = g.detach() < 0
    return honest(q, k, v, altered(g, lambda d: d * keep), beta, **keywords)


@fault(
    "J11",
    "dv is scaled by the default scale twice where a scale is given.",
    trigger="backward and scale given and K > 1",
    source="lore of training kernels: scale in forward and backward",
)
def dv_with_the_default_scale(q, k, v, g, beta, *, scale=None, **keywords):
    factor = 1.0 if scale is None else q.shape[-1] ** -0.5 / scale
    return honest(q, k, altered(v, lambda d: d * factor), g, beta, scale=scale, **keywords)


@fault(
    "J12",
    "The gradient that comes in is scaled in place and belongs to the caller.",
    trigger="backward in float32 (half precision makes a copy)",
    source="lore of training kernels: dO scaled in place",
)
class upstream_scaled_in_place(Chunked):
    def result(self, o, call):
        if call.dtype != torch.float32 or not o.requires_grad:
            return o

        def scaled(d):
            if d.is_contiguous() and 0 not in d.stride():
                d.mul_(2)
                return d / 2
            return d

        return altered(o, scaled)


@fault(
    "J13",
    "The buffer of dg is never written where the gate forgets everything.",
    trigger="backward and a gate of -1000",
    source="fla #892, cd041152",
)
def dg_never_written(q, k, v, g, beta, **keywords):
    forgotten = g.detach() <= -1000

    def partly(d):
        fresh = torch.empty_like(d)
        fresh[~forgotten] = d[~forgotten]
        return fresh

    return honest(q, k, v, altered(g, partly), beta, **keywords)


@fault(
    "J14",
    "The output carries no gradients unless every input asks for them.",
    trigger="backward and one input that needs no gradient",
    source="lore of training kernels: ctx.needs_input_grad read as one flag",
)
def all_or_no_gradients(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)
    if not all(x.requires_grad for x in (q, k, v, g, beta)):
        return o.detach(), None if state is None else state.detach()
    return o, state
