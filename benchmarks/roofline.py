"""The least time a call can take: bytes that must move and products that must be made, at the device's own rates.

Bytes: every input read once and every result written once. Products: the recurrence makes three of K x V for each
token and value head (erase, write, read), two operations each; no chunk form makes fewer. A backward pass makes at
least twice as many again. Rates are measured, so a faster call than this was not the work asked for.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.clock import clock_of, median
from benchmarks.inputs import Inputs

# A median below this part of the floor is called implausible; copies under good conditions vary by a few percent.
MARGIN = 0.9
# A floor in milliseconds below which a copy of the same size is timed too: so short ones do not reach the full rate.
SMALL = 0.2


def ceilings(device: str) -> dict[str, Any]:
    """Measured copy bandwidth (bytes read and written per second) and matrix product rate (operations per second)."""
    copies, matmul, dtype = (512 << 20, 8192, torch.bfloat16) if device == "cuda" else (128 << 20, 1024, torch.float32)
    source = torch.ones(copies, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.ones(matmul, matmul, dtype=dtype, device=device) for _ in range(2))
    copy = _best(device, lambda: target.copy_(source))
    product = _best(device, lambda: a @ b)
    return {
        "bytes_per_s": 2 * copies / copy,
        "flops_per_s": 2 * matmul**3 / product,
        "copy_bytes": copies,
        "matmul": f"{matmul}^3 {str(dtype).removeprefix('torch.')}",
    }


def _best(device: str, call: Callable[[], Any]) -> float:
    return min(_seconds(device, call, 12)[2:])


def _seconds(
    device: str, call: Callable[[], Any], count: int, before: Callable[[], None] = lambda: None
) -> list[float]:
    """What each of `count` calls takes; `before` each, untimed, something else is done."""
    clock, times = clock_of(device), []
    for _ in range(count):
        before()
        start = clock.now()
        call()
        times.append(clock.now() - start)
    return times


def traffic(x: Inputs, mode: str) -> tuple[int, int]:
    """Bytes that must move and operations that must be made."""
    inputs = [y for y in (x.q, x.k, x.v, x.g, x.beta, x.initial_state) if y is not None]
    moved = sum(y.numel() * y.element_size() for y in inputs)
    (B, T, HV, V), K, N = x.v.shape, x.q.shape[-1], len(x.lengths)
    results = x.v.numel() * x.v.element_size() + 4 * N * HV * K * V
    operations = 6 * B * T * HV * K * V
    if mode == "forward+backward":
        results += moved + x.v.numel() * x.v.element_size() + 4 * N * HV * K * V
        operations *= 3
    return moved + results, operations


def floor(x: Inputs, mode: str, rates: dict[str, Any]) -> tuple[float, str]:
    """The floor in milliseconds and what sets it, "bytes" or "flops"."""
    moved, operations = traffic(x, mode)
    by_bytes, by_flops = moved / rates["bytes_per_s"], operations / rates["flops_per_s"]
    return 1e3 * max(by_bytes, by_flops), "bytes" if by_bytes >= by_flops else "flops"


def copy_ms(x: Inputs, mode: str, floor_ms: float | None, flush: Callable[[], None], graph: bool) -> float | None:
    """Median time of a copy that moves as many bytes, half of them written, timed on a GPU as a call is.

    The rate of the floor is that of a copy which takes long. A short one reaches less: it starts, it ends, and what the
    flush before it left is still being written back. So will any kernel. None where the floor is not low.
    """
    if floor_ms is None or floor_ms >= SMALL:
        return None
    source = torch.ones(max(traffic(x, mode)[0] // 2, 1), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy: Callable[[], Any] = lambda: target.copy_(source)  # noqa: E731
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            copy()
        copy = captured.replay
    return 1e3 * median(_seconds("cuda", copy, 15, flush)[3:])
