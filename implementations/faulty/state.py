"""States from call to call: what is handed over, in which form (families C, D, H and L seen through one kernel)."""

import torch

from implementations.faulty._base import Chunked
from implementations.faulty._registry import fault


@fault(
    "L1",
    "The final state is the state at the last multiple of 64: the tail is read but not committed.",
    trigger="T > 64 and T mod 64 != 0",
    source="sgl-project/sglang #30862",
)
class tail_not_committed(Chunked):
    def carry(self, c, total, S, u):
        into = c.index * self.chunk
        return S if c.tokens > 64 and into >= c.tokens // 64 * 64 else super().carry(c, total, S, u)


@fault(
    "L2",
    "A prompt of one token is taken for a decode step and inherits the state of the last request.",
    trigger="T = 1 and no state given, after a call that left one",
    source="vllm #51483",
)
class one_token_prefill_as_decode(Chunked):
    left = None

    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        _, start, stop = call.cuts[n]
        inherits = not call.stated and stop - start == 1 and self.left is not None and self.left.shape == S.shape
        return self.left if inherits else S

    def final(self, S, n, call):
        self.left = S.detach()
        return S


@fault(
    "L3",
    "A prompt of exactly three tokens takes the path of speculative decoding, which writes no state.",
    trigger="T = 3",
    source="vllm #53051",
)
class three_tokens_write_no_state(Chunked):
    def carry(self, c, total, S, u):
        return S if c.tokens == 3 else super().carry(c, total, S, u)


@fault(
    "L6",
    "Every sequence of a dense batch starts from the state in slot 0.",
    trigger="dense and B > 1 and states given",
    source="tt-metal #54850",
)
class every_row_from_slot_zero(Chunked):
    def initial(self, initial_state, n, call):
        return super().initial(initial_state, n if call.packed else 0, call)


@fault(
    "L7",
    "From the second call of a prefill on, a state that comes in is used without its last key block.",
    trigger="a state given and K > 16 and T > 16",
    source="vllm #52909",
)
class last_key_block_of_the_state_lost(Chunked):
    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        _, start, stop = call.cuts[n]
        if call.shape.K > 16 and stop - start > 16 and call.stated:
            S[:, 16:] = 0
        return S


@fault(
    "L8",
    "An initial state beyond 1000 is clamped as a precaution.",
    trigger="a state given with entries above 1000",
    source="lore of serving kernels: clamps against overflow",
)
class state_clamped(Chunked):
    def initial(self, initial_state, n, call):
        return super().initial(initial_state, n, call).clamp(-1000, 1000)


@fault(
    "L9",
    "The initial state is read as bfloat16 and only in the decode step.",
    trigger="T = 1 and a state given and float32",
    source="lore of serving kernels: a half-precision state pool",
)
class decode_state_in_half_precision(Chunked):
    def initial(self, initial_state, n, call):
        S = super().initial(initial_state, n, call)
        return S.bfloat16().float() if call.shape.T == 1 and not S.requires_grad else S


@fault(
    "L10",
    "The state is handed over before the last decay of a whole last chunk.",
    trigger="T a multiple of 16 and a gate at the last token",
    source="lore of chunk kernels: exclusive for inclusive cumulative gate",
)
class state_before_the_last_decay(Chunked):
    def whole(self, c, total):
        if c.length < self.chunk or not c.last:
            return super().whole(c, total)
        return total[:, -2].exp().to(torch.float32)
