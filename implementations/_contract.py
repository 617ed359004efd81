"""The contract that every shipped kernel checks before it computes: refuse in a sentence, or be right.

`kernel(q, k, v, g, beta, *, scale, initial_state, output_final_state, cu_seqlens) -> (o, final_state or None)`; works
on the shapes and dtypes of NumPy arrays and torch tensors alike.
"""

import itertools
from functools import lru_cache
from typing import Any, NamedTuple

FLOATS = ("float32", "bfloat16", "float16", "float64")


class Shape(NamedTuple):
    """The extents of a call: batch rows, tokens, heads, value heads, widths, sequences."""

    B: int
    T: int
    H: int
    HV: int
    K: int
    V: int
    N: int


def check(
    q: Any, k: Any, v: Any, g: Any, beta: Any, *, initial_state: Any = None, cu_seqlens: Any = None, values: bool = True
) -> Shape:
    """Check shapes, dtypes, devices and cu_seqlens.

    Reading cu_seqlens' values waits for a GPU once; a call without it does not wait.

    Args:
        q: [B, T, H, K].
        k: [B, T, H, K].
        v: [B, T, HV, V], HV a multiple of H.
        g: [B, T, HV, K].
        beta: [B, T, HV].
        initial_state: [N, HV, K, V] or None.
        cu_seqlens: [N + 1] integers from 0 to T, never decreasing, with B = 1, or None.
        values: False: what cu_seqlens holds is left to the caller, and to `rising`.

    Returns:
        The extents.

    Raises:
        ValueError: for a wrong shape, device or value.
        TypeError: for a wrong dtype.
    """
    if q.ndim != 4 or v.ndim != 4:
        raise ValueError(f"q and v: expected four dimensions; got {tuple(q.shape)} and {tuple(v.shape)}")
    (B, T, H, K), (HV, V) = q.shape, v.shape[2:]
    if H < 1 or HV < 1 or HV % H:
        raise ValueError(f"v: expected a number of heads that is a multiple of q's {H}; got {HV}")
    N = B if cu_seqlens is None else _sequences(cu_seqlens, B)
    if values and cu_seqlens is not None:
        rising(cu_seqlens.tolist(), T)
    expected = {"k": (k, (B, T, H, K)), "v": (v, (B, T, HV, V)), "g": (g, (B, T, HV, K)), "beta": (beta, (B, T, HV))}
    if initial_state is not None:
        expected["initial_state"] = (initial_state, (N, HV, K, V))
    device = getattr(q, "device", None)
    for name, (x, shape) in expected.items():
        if x.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}; got {tuple(x.shape)}")
        if getattr(x, "device", None) != device:
            raise ValueError(f"{name}: expected device {q.device} like q; got {x.device}")
    _dtypes(q, k, v, {"g": g, "beta": beta} | ({} if initial_state is None else {"initial_state": initial_state}))
    return Shape(B, T, H, HV, K, V, N)


def _dtypes(q: Any, k: Any, v: Any, others: dict[str, Any]) -> None:
    for name, x in {"q": q, "k": k, "v": v, **others}.items():
        if dtype_name(x) not in FLOATS:
            raise TypeError(f"{name}: expected one of {', '.join(FLOATS)}; got {dtype_name(x)}")
    if not dtype_name(q) == dtype_name(k) == dtype_name(v):
        raise TypeError(f"q, k, v: expected one dtype; got {dtype_name(q)}, {dtype_name(k)}, {dtype_name(v)}")


def dtype_name(x: Any) -> str:
    """The dtype of an array or tensor without its library's prefix."""
    return _name(x.dtype)


@lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    return str(dtype).rsplit(".", 1)[-1]


def _sequences(cu_seqlens: Any, B: int) -> int:
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1 or not dtype_name(cu_seqlens).startswith(("int", "uint")):
        raise ValueError(
            f"cu_seqlens: expected a list of integers; got {dtype_name(cu_seqlens)} {tuple(cu_seqlens.shape)}"
        )
    if B != 1:
        raise ValueError(f"cu_seqlens: expected B = 1 with packed sequences; got B = {B}")
    return len(cu_seqlens) - 1


def rising(ends: list[int], T: int) -> None:
    """Refuse boundaries of packed sequences that do not rise from 0 to T.

    Raises:
        ValueError: with what they are.
    """
    if ends[0] != 0 or ends[-1] != T or any(b < a for a, b in itertools.pairwise(ends)):
        raise ValueError(f"cu_seqlens: expected to rise from 0 to T = {T}; got {ends}")


def bounds(shape: Shape, cu_seqlens: Any) -> list[tuple[int, int, int]]:
    """(batch row, first token, token behind the last) of every sequence."""
    if cu_seqlens is None:
        return [(b, 0, shape.T) for b in range(shape.B)]
    ends = cu_seqlens.tolist()
    return [(0, start, stop) for start, stop in itertools.pairwise(ends)]
