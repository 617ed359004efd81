"""What the Triton kernels share: what they refuse, and how sequences are told to them."""

import torch
import triton
from torch import Tensor
from triton import knobs

from implementations._contract import Shape


def ready(*inputs: Tensor | None) -> None:
    """Refuse what a forward Triton kernel cannot do: gradients, float64, a CPU without the interpreter.

    Raises:
        NotImplementedError: with the reason.
    """
    tensors = [x for x in inputs if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise NotImplementedError("gradients: this kernel computes the forward pass only")
    if any(x.dtype == torch.float64 for x in tensors):
        raise NotImplementedError("float64: this kernel computes in float32")
    if tensors[0].device.type == "cpu" and not interpreted():
        raise NotImplementedError("CPU tensors: set TRITON_INTERPRET=1 before Triton is imported")


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python on the CPU."""
    return bool(knobs.runtime.interpret)


def precision(dtype: torch.dtype) -> str:
    """How products of float32 numbers are formed for inputs of a dtype, as `tl.dot` names it.

    float32 inputs get three bfloat16 terms of each factor, six products: tf32x3 loses 26 roundings where a state of 1e4
    is erased (six times more than float32 products), and the compiler takes minutes over "ieee" ones.
    """
    if interpreted():
        return "ieee"
    if dtype == torch.float32:
        return "bf16x6" if tuple(int(x) for x in triton.__version__.split(".")[:2]) >= (3, 6) else "ieee"
    return "tf32x3" if dtype == torch.float16 else "tf32"


def padded(size: int) -> int:
    """The power of two a block of this size needs."""
    return triton.next_power_of_2(size)


def alignment(K: int, V: int) -> int:
    """What K and V are told in multiples of: 16 lets rows be read 16 bytes at a time, whatever the widths are."""
    return 1 if K % 16 or V % 16 else 16


def sequence_bounds(shape: Shape, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Boundaries of all sequences over the flattened [B * T] tokens, int64, [N + 1]."""
    if cu_seqlens is None:
        return torch.arange(shape.B + 1, device=device, dtype=torch.int64) * shape.T
    return cu_seqlens.to(device=device, dtype=torch.int64).contiguous()
