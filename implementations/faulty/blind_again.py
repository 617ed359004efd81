"""Faults of a second trial without knowledge of the laws; see `blind.py`. Four of these were missed at first."""

import torch

from implementations.faulty._base import Chunked, altered, honest
from implementations.faulty._registry import fault
from implementations.faulty.raw import Raw

SOURCE = "second blind trial of the laws"


@fault(
    "J15",
    "The backward pass decays the states that it kept in place: a second one finds them changed.",
    trigger="two backward passes through one call and a state that fades",
    source=f"{SOURCE}; saves an allocation, and tests differentiate once",
)
class kept_states_decayed_in_place(Chunked):
    def step(self, c, S):
        if not S.requires_grad:
            return super().step(c, S)
        whole, kept = self.whole(c, self.running(c)).detach()[..., None], []

        def decay(d):
            kept[0].data.mul_(whole)
            return d

        kept.append(altered(S, decay))
        return super().step(c, kept[0])


@fault(
    "J16",
    "The output's cotangent reaches the state's only where q needs a gradient.",
    trigger="backward and q needs no gradient and something else does",
    source=f"{SOURCE}; dq left out where nobody asks, and its neighbour line with it",
)
def cotangent_lost_without_queries(q, k, v, g, beta, **keywords):
    o, state = honest(q, k, v, g, beta, **keywords)
    return (o if q.requires_grad or not o.requires_grad else altered(o, torch.zeros_like)), state


@fault(
    "J17",
    "The walk backwards passes an empty sequence over, and the gradient of its state stays zero.",
    trigger="backward and packed and an empty sequence with a state",
    source=f"{SOURCE}; `if start == stop: continue`",
)
class empty_sequence_passed_over(Chunked):
    def final(self, S, n, call):
        _, start, stop = call.cuts[n]
        return altered(S, torch.zeros_like) if start == stop and S.requires_grad else S


@fault(
    "J18",
    "The state's cotangent that is carried from one chunk of 64 to the one before is rounded to bfloat16.",
    trigger="backward and bfloat16 and T > 64",
    source=f"{SOURCE}; B13 in the backward pass",
)
class carried_cotangent_in_half(Chunked):
    def carry(self, c, total, S, u):
        S, dtype = super().carry(c, total, S, u), c.call.dtype
        between = self.borders(c, 64)
        half = between and dtype == torch.bfloat16 and S.requires_grad
        return altered(S, lambda d: d.to(dtype).to(d.dtype)) if half else S


@fault(
    "X18",
    "One decay per head is taken where the first token's decays are alike.",
    trigger="a first token with one decay and later tokens with several",
    source=f"{SOURCE}; the cheaper kernel is chosen by a sample of the gate",
)
class head_gate_by_the_first_token(Chunked):
    def gate(self, g, call):
        g = super().gate(g, call)
        return g[..., :1].expand_as(g) if bool((g[:, :1] == g[:, :1, :, :1]).all()) else g


@fault(
    "X19",
    "What a chunk leaves of the state is dropped where that is less than a ten-thousandth.",
    trigger="half precision and a chunk that fades all channels and a state far larger than what is written",
    source=f"{SOURCE}; a threshold in place of a product",
)
class faded_state_dropped(Chunked):
    def carry(self, c, total, S, u):
        faded = c.call.dtype.itemsize == 2 and float(self.whole(c, total).detach().max()) < 1e-4
        return super().carry(c, total, S * 0 if faded else S, u)


@fault(
    "E15",
    "A packed batch is taken for decode steps where it has as many tokens as sequences.",
    trigger="packed and empty sequences that make up for longer ones",
    source=f"{SOURCE}; a test that needs no look at cu_seqlens",
)
class decode_by_count(Chunked):
    def sequences(self, shape, cu_seqlens):
        if cu_seqlens is not None and shape.N == shape.T:
            return [(0, n, n + 1) for n in range(shape.N)]
        return super().sequences(shape, cu_seqlens)


@fault(
    "H19",
    "The initial state is read as dense where each head's part of it is.",
    trigger="a state that is a slice of a larger one and more than one head or sequence",
    source=f"{SOURCE}; only the innermost strides are looked at",
)
class state_slice_read_as_dense(Chunked):
    def initial(self, initial_state, n, call):
        x, shape = initial_state, call.shape
        if x is not None and not x.requires_grad and x.stride()[2:] == (shape.V, 1):
            memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())[x.storage_offset() :]
            x = memory[: x.numel()].reshape(x.shape) if memory.numel() >= x.numel() else x
        return super().initial(x, n, call)


@fault(
    "C16",
    "The softplus of the gate takes the logarithm of an exponential that overflows.",
    trigger="the gate in the kernel and raw gates over 88 at a slow rate",
    source=f"{SOURCE}; softplus without its threshold",
)
class softplus_overflows(Raw):
    def mapped(self, g, A_log, dt_bias, bound, group):
        if bound is not None:
            return super().mapped(g, A_log, dt_bias, bound, group)
        x = g if dt_bias is None else g + dt_bias
        return -A_log.exp()[:, None] * torch.log1p(x.exp())


@fault(
    "C17",
    "The norm is divided by without an epsilon under the root.",
    trigger="the norm in the kernel and a row of zeros, or one shorter than the epsilon",
    source=f"{SOURCE}; padding tokens are rows of zeros",
)
class norm_without_epsilon(Raw):
    def normalised(self, x, gated):
        return x / x.square().sum(dim=-1, keepdim=True).sqrt()


@fault(
    "C18",
    "The lower bound of the gate is -5, whatever bound is given.",
    trigger="the gate in the kernel and a lower bound that is not -5",
    source=f"{SOURCE}; a production constant compiled in",
)
class bound_compiled_in(Raw):
    def mapped(self, g, A_log, dt_bias, bound, group):
        return super().mapped(g, A_log, dt_bias, bound and -5.0, group)
