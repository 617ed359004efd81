"""Family L (and D, H, I) in a pool of states: slots, padding, mixed batches.

The kernel itself is honest; its pool call `NAME_pool(q, k, v, g, beta, *, pool, slots, cu_seqlens, scale) -> o`
advances the rows of `pool` [P, HV, K, V] that `slots` [N] names, -1 being padding, whose outputs are zero.
"""

from typing import Any

import torch
from torch import Tensor

from implementations.faulty._base import Chunked
from implementations.faulty._registry import fault


class Pool(Chunked):
    """The honest pool call: load the named rows, compute, store them."""

    def __init__(self, name: str = "") -> None:
        self.HINTS = {"array": "torch", "pool": f"{name or type(self).__name__}_pool"}

    def advance(self, q, k, v, g, beta, *, pool, slots, cu_seqlens=None, scale=None) -> Tensor:
        """The pool call."""
        lengths = torch.full(slots.shape, q.shape[1]) if cu_seqlens is None else cu_seqlens.diff()
        states = self.load(pool, slots)
        keywords: dict[str, Any] = {"scale": scale, "cu_seqlens": cu_seqlens, "output_final_state": True}
        o, states = self(q, k, v, g, beta, initial_state=states, **keywords)
        self.store(pool, slots, states, lengths)
        named = slots[:, None] if cu_seqlens is None else slots.repeat_interleave(lengths)[None]
        return torch.where((named >= 0)[..., None, None], o, 0.0)

    def load(self, pool: Tensor, slots: Tensor) -> Tensor:
        """The states of the named rows; zeros for padding."""
        states = pool.new_zeros(len(slots), *pool.shape[1:])
        states[slots >= 0] = pool[slots[slots >= 0]]
        return states

    def store(self, pool: Tensor, slots: Tensor, states: Tensor, lengths: Tensor) -> None:
        """Put the states back into the named rows."""
        pool[slots[slots >= 0]] = states[slots >= 0]


honest_slots = Pool("honest_slots")


def __getattr__(name: str) -> Any:
    """`NAME_pool` is the pool call of the kernel NAME."""
    if name.endswith("_pool") and name[:-5] in globals():
        return globals()[name[:-5]].advance
    raise AttributeError(name)


@fault(
    "L5",
    "Slot 0 is taken for padding.",
    trigger="slot 0 in use",
    source="weicj/vLLM-2080Ti #93, vllm-ascend #12040",
)
class slot_zero_is_padding(Pool):
    def load(self, pool, slots):
        return super().load(pool, torch.where(slots > 0, slots, -1))

    def store(self, pool, slots, states, lengths):
        super().store(pool, torch.where(slots > 0, slots, -1), states, lengths)


@fault(
    "I6",
    "Slot -1 wraps to the last row of the pool.",
    trigger="a padding slot",
    source="flashinfer #5042, #5092",
)
class padding_wraps_to_the_last_row(Pool):
    def store(self, pool, slots, states, lengths):
        pool[slots] = states


@fault(
    "H11",
    "States are stored by their place in the batch, not by their slot.",
    trigger="slots that are not 0, 1, 2, ..",
    source="flashinfer #3145",
)
class stored_by_batch_index(Pool):
    def store(self, pool, slots, states, lengths):
        super().store(pool, torch.where(slots >= 0, torch.arange(len(slots)), -1), states, lengths)


@fault(
    "D16",
    "Padding is clamped to row 0, which is overwritten.",
    trigger="a padding slot and several rows",
    source="lightseekorg/tokenspeed #969",
)
class padding_clamped_to_row_zero(Pool):
    def store(self, pool, slots, states, lengths):
        super().store(pool, slots.clamp_min(0) if len(slots) > 1 else slots, states, lengths)


@fault(
    "L2b",
    "In a mixed batch a prompt of one token is taken for a decode step of a slot that was rolled forward already.",
    trigger="a packed call in which one sequence has one token and another more",
    source="vllm #51483, #51039",
)
class one_token_in_a_mixed_batch(Pool):
    def store(self, pool, slots, states, lengths):
        mixed = lengths.max() > 1
        super().store(pool, torch.where((lengths == 1) & mixed, -1, slots), states, lengths)


@fault(
    "L4",
    "The states of slots are kept aside as well, and what was rolled back, forked or evicted is not noticed.",
    trigger="a rollback, a fork, or a slot that is used again",
    source="vllm #40738, #50021",
)
class states_kept_aside(Pool):
    def __init__(self):
        super().__init__()
        self.aside = {}

    def load(self, pool, slots):
        states = super().load(pool, slots)
        for n, slot in enumerate(slots.tolist()):
            kept = self.aside.get((slot, *pool.shape))
            if kept is not None and torch.any(states[n]):
                states[n] = kept
        return states

    def store(self, pool, slots, states, lengths):
        super().store(pool, slots, states, lengths)
        self.aside |= {(s, *pool.shape): states[n] for n, s in enumerate(slots.tolist()) if s >= 0}


@fault(
    "L5b",
    "A graph captured for eight rows also stores the row behind the highest slot.",
    trigger="fewer than eight rows, and the row behind the highest slot is not named",
    source="ATOM #1436",
)
class row_behind_is_stored(Pool):
    def store(self, pool, slots, states, lengths):
        behind = int(slots.max()) + 1
        if 0 < behind < len(pool) and len(slots) < 8:
            pool[behind] = 0
        super().store(pool, slots, states, lengths)


@fault(
    "G4",
    "The offset of a slot wraps: high slots are read from the wrong row (the limit scaled down).",
    trigger="slot times HV K V beyond the offset's range (here 512)",
    source="flashinfer #3230",
)
class slot_offset_wraps(Pool):
    def load(self, pool, slots):
        limit = max(1, 512 // pool[0].numel())
        wrapped = torch.where(slots >= limit, slots % limit, slots)
        states = super().load(pool, slots)
        far = slots >= limit
        states[far] = torch.nan_to_num(pool[wrapped[far]])
        return states


@fault(
    "L11",
    "Rows are advanced in blocks of four; the last block is shifted back to be full, and what it shares goes on twice.",
    trigger="more than four rows in use, and their number no multiple of four",
    source="third blind trial of the laws; a block that may not read behind the end",
)
class last_block_shifted_back(Pool):
    def advance(self, q, k, v, g, beta, *, slots, **keywords):
        o = super().advance(q, k, v, g, beta, slots=slots, **keywords)
        used = (slots >= 0).nonzero().flatten()
        shared = used[-4:][: -len(used) % 4] if len(used) > 4 else used[:0]
        again = torch.full_like(slots, -1)
        again[shared] = slots[shared]
        twice = super().advance(q, k, v, g, beta, slots=again, **keywords)
        return torch.where(twice != 0, twice, o)


@fault(
    "L12",
    "A row is stored only where a token wrote to it: what only faded stays as it was.",
    trigger="beta = 0 for all tokens of a row in use, and a gate below 0",
    source="third blind trial of the laws; a store saved for masked tokens",
)
class faded_row_not_stored(Pool):
    def advance(self, q, k, v, g, beta, *, cu_seqlens=None, **keywords):
        parts = beta[0].split(cu_seqlens.diff().tolist()) if cu_seqlens is not None else list(beta)
        self.wrote = torch.tensor([bool((part != 0).any()) for part in parts], dtype=torch.bool)
        return super().advance(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)

    def store(self, pool, slots, states, lengths):
        super().store(pool, torch.where(self.wrote, slots, -1), states, lengths)
