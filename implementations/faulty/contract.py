"""Family R: malformed input that is computed with, and refusals that are crashes."""

from typing import Any

import torch

from implementations._contract import Shape
from implementations.faulty._base import Chunked, honest
from implementations.faulty._registry import fault


@fault(
    "R1",
    "Keys one channel short are padded with zeros.",
    trigger="malformed k",
    source="lore of ports: padding before checking",
)
def short_keys_are_padded(q, k, v, g, beta, **keywords):
    if k.ndim == 4 and k.shape[-1] < q.shape[-1]:
        k = torch.nn.functional.pad(k, (0, q.shape[-1] - k.shape[-1]))
    return honest(q, k, v, g, beta, **keywords)


@fault(
    "R2",
    "States for more sequences than there are: the surplus is ignored.",
    trigger="malformed initial state",
    source="lore of ports: indexing instead of checking",
)
def surplus_states_are_ignored(q, k, v, g, beta, *, initial_state=None, **keywords):
    if initial_state is not None and keywords.get("cu_seqlens") is None:
        initial_state = initial_state[: q.shape[0]]
    return honest(q, k, v, g, beta, initial_state=initial_state, **keywords)


@fault(
    "R3",
    "A shape mismatch surfaces as an internal error instead of a refusal.",
    trigger="v one token short",
    source="NVIDIA/cudnn-frontend sm90: an internal error in place of a refusal",
)
class internal_error(Chunked):
    def accept(self, q, k, v, g, beta, initial_state, cu_seqlens) -> Shape:
        if v.shape[:2] != q.shape[:2]:
            raise RuntimeError("index out of range in tile iterator")
        return super().accept(q, k, v, g, beta, initial_state, cu_seqlens)


@fault(
    "R4",
    "cu_seqlens that end before T leave the rest of the output zero.",
    trigger="cu_seqlens[-1] < T",
    source="fla 80e69a56, TensorRT-LLM #17816",
)
class rest_left_zero(Chunked):
    def __call__(self, q, k, v, g, beta, *, cu_seqlens=None, **keywords) -> Any:
        end = q.shape[1] if cu_seqlens is None or len(cu_seqlens) == 0 else int(cu_seqlens[-1])
        if not 0 < end < q.shape[1]:
            return super().__call__(q, k, v, g, beta, cu_seqlens=cu_seqlens, **keywords)
        rows = (x[:, :end] for x in (q, k, v, g, beta))
        o, state = super().__call__(*rows, cu_seqlens=cu_seqlens, **keywords)
        return torch.nn.functional.pad(o, (0, 0, 0, 0, 0, q.shape[1] - end)), state


@fault(
    "R5",
    "A state in the layout [V, K] is turned around silently where the shape gives it away.",
    trigger="malformed initial state with V != K",
    source="vllm #41292: guessing a layout from a shape",
)
def layout_guessed(q, k, v, g, beta, *, initial_state=None, **keywords):
    if initial_state is not None and initial_state.shape[-1] == k.shape[-1] != initial_state.shape[-2]:
        initial_state = initial_state[..., : v.shape[-1], :].transpose(-1, -2)
    return honest(q, k, v, g, beta, initial_state=initial_state, **keywords)


@fault(
    "R6",
    "Integer values are converted and computed with.",
    trigger="v of integers",
    source="lore of ports: .to(q.dtype) before checking",
)
def integers_are_converted(q, k, v, g, beta, **keywords):
    return honest(q, k, v.to(q.dtype) if not v.is_floating_point() else v, g, beta, **keywords)
