"""The chunked kernel with gradients: a forward and a backward in Triton, joined for autograd.

The forward saves its inputs and nothing else. The backward computes each chunk's matrices again, walks over the chunks
forwards for the states and backwards for their cotangents, and takes all gradients of a chunk from those two
(`_triton_backward.py` has the equations, `_triton_training.py` the way of bfloat16 up to K = 128). No atomics, no
tuning at call time: equal calls give equal bits, whatever else stands in the batch. Both passes are operators
(`kda::chunked`, `kda::chunked_backward`), so the function works under `torch.compile(fullgraph=True)`; where nobody
looks at operators autograd calls the same code without them. Gradients of gradients are refused.
"""

import torch
from torch import Tensor

from implementations._contract import Shape
from implementations._triton import together
from implementations._triton_adjoint import Inputs, gradients
from implementations.triton_chunked import triton_chunked

HINTS = {"array": "torch"}


def triton_training(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None):
    """S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_(t-1) + beta_t k_t v_t^T,  o_t = scale S_t^T q_t.

    Shapes and ranges are the contract's (`implementations/_contract.py`); float32, bfloat16 or float16; K up to 256.
    Differentiable in q, k, v, g, beta and initial_state; a gradient has the dtype of its input.

    Raises:
        ValueError: for a wrong shape, device or value of cu_seqlens.
        TypeError: for a wrong dtype.
        NotImplementedError: for float64, K above 256, and on a CPU without the interpreter.
    """
    # The operator's own check comes too late: torch takes a tensor without data anywhere for a call without data.
    for name, x in {"k": k, "v": v, "g": g, "beta": beta, "initial_state": initial_state}.items():
        if x is not None and x.device != q.device:
            raise ValueError(f"{name}: expected device {q.device} like q; got {x.device}")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    given = q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens
    o, state = (torch.ops.kda.chunked if _watched(q, k, v, g, beta) else _Chunked.apply)(*given)
    return o, state if output_final_state else None


class _Chunked(torch.autograd.Function):
    """The two operators without torch's layers for operators, which take longer than a launch: where nobody watches."""

    @staticmethod
    def forward(ctx, *given):
        output = _forward(*given)
        _save(ctx, given, output)
        return output

    @staticmethod
    def backward(ctx, *grads):
        return _differentiate(ctx, *grads)


def _watched(*tensors: Tensor) -> bool:
    """Whether operators have to be seen: by a compiler, a mode that dispatches, or another kind of tensor."""
    watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return watched or any(type(x) not in (Tensor, torch.nn.Parameter) for x in tensors)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    def call():
        return triton_chunked(
            q, k, v, g, beta, scale=scale, initial_state=initial_state, output_final_state=output_final_state,
            cu_seqlens=cu_seqlens,
        )  # fmt: skip

    def later():
        if any(x.requires_grad for x in (q, k, v, g, beta)):
            o, state = _results(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens)
            _backward(o, state if output_final_state else None, q, k, v, g, beta, scale, initial_state, cu_seqlens)

    o, state = together(v.device, call, later)
    return o, v.new_empty(0, dtype=torch.float32) if state is None else state


def _results(q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens):
    sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape = (sequences, v.shape[2], q.shape[3], v.shape[3]) if output_final_state else (0,)
    return v.new_empty(v.shape), v.new_empty(shape, dtype=torch.float32)


def _backward(
    do: Tensor | None,
    dfinal: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, g, beta and initial_state (empty where there is none)."""
    # The forward pass has checked all of them.
    (B, T, H, K), (HV, V) = q.shape, v.shape[2:]
    shape = Shape(B, T, H, HV, K, V, B if cu_seqlens is None else len(cu_seqlens) - 1)
    x = Inputs(*(t.contiguous() for t in (q, k, v, g, beta, torch.zeros_like(v) if do is None else do)))
    first, dfinal = (None if t is None else t.contiguous() for t in (initial_state, dfinal))
    *grads, dinitial = together(v.device, lambda: gradients(x, dfinal, shape, scale, first, cu_seqlens))
    return *grads, dinitial if first is None else dinitial.to(first.dtype)


def _gradients(do, dfinal, q, k, v, g, beta, scale, initial_state, cu_seqlens):
    first = q.new_empty(0, dtype=torch.float32) if initial_state is None else initial_state
    return tuple(x.new_empty(x.shape) for x in (q, k, v, g, beta, first))


def _save(ctx, inputs, output):
    q, k, v, g, beta, ctx.scale, initial_state, ctx.wants_state, cu_seqlens = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, g, beta, initial_state, cu_seqlens)


def _differentiate(ctx, do, dfinal):
    q, k, v, g, beta, initial_state, cu_seqlens = ctx.saved_tensors
    dfinal = dfinal if ctx.wants_state else None
    backward = torch.ops.kda.chunked_backward if torch.is_grad_enabled() or _watched(q, k, v, g, beta) else _backward
    grads = backward(do, dfinal, q, k, v, g, beta, ctx.scale, initial_state, cu_seqlens)
    return *grads[:5], None, None if initial_state is None else grads[5], None, None


def _refuse(ctx, *grads):
    raise RuntimeError("gradients of gradients: triton_training computes first derivatives only")


def _register():
    """The operators, not by torch.library.custom_op: its first call imports all of torch's compiler, 900 modules."""
    library, kind = torch.library.Library("kda", "FRAGMENT"), "CompositeExplicitAutograd"
    given = "Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, float scale, Tensor? initial_state"
    results, grads = "(Tensor, Tensor)", "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    forward = f"({given}, bool output_final_state, Tensor? cu_seqlens) -> {results}"
    backward = f"(Tensor? do, Tensor? dfinal, {given}, Tensor? cu_seqlens) -> {grads}"
    for name, signature, computed, fake in (
        ("chunked", forward, _forward, _results),
        ("chunked_backward", backward, _backward, _gradients),
    ):
        library.define(name + signature, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, computed, kind)
        torch.library.register_fake(f"kda::{name}", fake, lib=library)
    torch.library.register_autograd("kda::chunked", _differentiate, setup_context=_save, lib=library)
    torch.library.register_autograd("kda::chunked_backward", _refuse, lib=library)
    _forward.library = library  # which has to live as long as they do


if not hasattr(torch.ops.kda, "chunked"):  # another copy of this file, loaded by its path, keeps those of the first
    _register()
