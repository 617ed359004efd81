"""Qualities: batch invariance bit for bit, strengths and accuracy in full. They accuse nobody."""

import numpy as np

from kda_spec import trace
from properties.budgets import informative, output_errors
from properties.calls import Kernel, problem_of
from properties.case import Case
from properties.compare import bits, parts
from properties.edits import with_
from properties.law import Judgement, judge, law
from properties.numbers import draw_uniform, round_to
from properties.pairs import (
    dense_and_packed,
    moved_heads,
    prefix,
    row_alone,
    strided_and_contiguous,
    with_empty_sequence,
    with_packing,
)


@law(
    "quality",
    "A batch row gives alone the bits that it gives in its batch.",
    "f(x)_b = f(x_b), bit for bit",
    adjust=lambda case: case.but(packed=(), B=max(case.B, 2)),
    quality=True,
    share=0.5,
)
def a_batch_row_keeps_its_bits(kernel: Kernel, case: Case) -> Judgement:
    return bits(row_alone(kernel, case), case)


@law(
    "quality",
    "A head gives the same bits wherever it stands among the heads.",
    "f(P x) = P f(x), bit for bit",
    adjust=lambda case: case.but(H=max(case.H, 2)),
    quality=True,
    share=0.5,
)
def a_head_keeps_its_bits(kernel: Kernel, case: Case) -> Judgement:
    return bits(moved_heads(kernel, case), case)


@law(
    "quality",
    "Packed and dense calls give the same bits.",
    "f([B, T]) = f([1, B T], cu_seqlens), bit for bit",
    adjust=lambda case: case.but(packed=(), T=max(case.T, 1)),
    quality=True,
    share=0.5,
)
def packing_keeps_the_bits(kernel: Kernel, case: Case) -> Judgement:
    return bits(dense_and_packed(kernel, case), case)


@law(
    "quality",
    "A sequence without tokens among the others leaves them their bits.",
    "f(x_1, (), x_2) = (f(x_1), S, f(x_2)), bit for bit",
    adjust=with_packing,
    quality=True,
    share=0.5,
)
def an_empty_sequence_keeps_the_bits(kernel: Kernel, case: Case) -> Judgement:
    return bits(with_empty_sequence(kernel, case)[0], case)


@law(
    "quality",
    "A shorter call gives the bits of the longer one's beginning.",
    "f(x[:t]) = f(x)[:t], bit for bit",
    adjust=lambda case: case.but(T=max(case.T, 2)),
    quality=True,
    share=0.5,
)
def a_prefix_keeps_its_bits(kernel: Kernel, case: Case) -> Judgement:
    return bits(prefix(kernel, case), case)


@law(
    "quality",
    "Strided, transposed and sliced inputs give the bits of contiguous ones.",
    "f(view of x) = f(copy of x), bit for bit",
    quality=True,
    share=0.5,
)
def strides_keep_the_bits(kernel: Kernel, case: Case) -> Judgement:
    """Matrix products of a library choose their order of summation by the strides of what they multiply."""
    return bits(strided_and_contiguous(kernel, case), case)


@law(
    "quality",
    "Strengths in float32 beside tokens of half precision count in full.",
    "f(.., beta) is not, bit for bit, f(.., beta rounded to the dtype of v)",
    adjust=lambda case: case.but(
        dtype="float16" if case.dtype == "float16" else "bfloat16",
        gate_dtype="float32",
        beta="random",
        key="unit",
        T=max(case.T, 20),
        K=max(case.K, 8),
        V=max(case.V, 8),
        packed=(),
        edits=(),
    ),
    quality=True,
    share=0.5,
)
def a_float32_strength_counts_in_full(kernel: Kernel, case: Case) -> Judgement:
    """Rounding beta costs no more than rounding an operand of a product, so no budget can tell."""
    problem = problem_of(case)
    rounded = with_(problem, beta=round_to(problem.beta, case.dtype))
    got, coarse = parts(kernel(case)), parts(kernel(case, rounded))
    matters = bool(np.any(rounded.beta != problem.beta)) and any(np.any(x) for x in coarse.values())
    if matters and all(np.array_equal(x, coarse[name], equal_nan=True) for name, x in got.items()):
        return Judgement(np.inf, True, f"beta counts as if it had been rounded to {case.dtype}: the same bits")
    return Judgement(0.0, matters)


@law(
    "quality",
    "Behind a gate that forgets everything, small gates keep their accuracy in float32.",
    "g_s = -1000 for some s < t  =>  o_t = scale S_t^T q_t within the float32 budget",
    adjust=lambda case: case.but(
        dtype="float32", gate_dtype="same", gate="typical" if case.gate != "tiny" else "tiny", T=max(case.T, 3)
    ),
    quality=True,
    share=0.5,
)
def a_reset_keeps_the_accuracy(kernel: Kernel, case: Case) -> Judgement:
    """Kernels that subtract float32 sums of gates lose three to four digits behind a -1000: known, and common."""
    problem = problem_of(case)
    resets = draw_uniform(case.seed, "resets", *problem.g.shape[:2])[:, :, None, None] < 1 / 8
    resets[:, :1] = True
    reset = with_(problem, g=round_to(np.where(resets, -1000.0, problem.g), "float32"))
    output, truth = kernel(case, reset), trace(reset)
    errors = output_errors(output.o, reset, truth, case.dtype)
    return judge("o", errors, reset, informative(reset, truth, case.dtype), "the recurrence")
