"""The workloads that are timed: what each stands for, and the Case its inputs are built from."""

import fnmatch
import itertools
from dataclasses import dataclass

from properties.case import Case

MODES = ("forward", "forward+backward", "decode")
FLASHKDA_PACKED = (1300, 547, 2048, 963, 271, 3063)


@dataclass(frozen=True)
class Workload:
    """One shape to time. `device` is where it belongs; `modes` are those that make sense, the first is the default.

    `graph`: of which of these modes a CUDA graph is timed too: what a GPU takes, however long the host takes to ask.
    """

    name: str
    summary: str
    case: Case
    modes: tuple[str, ...] = ("forward", "forward+backward")
    device: str = "cuda"
    graph: tuple[str, ...] = ("decode",)


def _model(**fields: object) -> Case:
    """Tensors as a production layer gives them: bounded gate, unit keys, a state handed in and out."""
    return Case(gate="production", beta="random", state="random").but(**fields)


def _wide(**fields: object) -> Case:
    return _model(K=128, V=128, dtype="bfloat16", **fields)


def _flashkda() -> list[Workload]:
    """The two cases of FlashKDA's published benchmark, and fewer heads, as tensor parallelism leaves them."""
    found = []
    for H in (96, 64, 32, 8):
        fixed = f"one sequence of 8192 tokens, {H} heads (FlashKDA's fixed case)"
        found.append(Workload(f"fixed-8192-h{H}", fixed, _wide(T=8192, H=H), graph=("forward", "forward+backward")))
        packed = f"six packed sequences, 8192 tokens, {H} heads (FlashKDA's packed case)"
        found.append(Workload(f"packed-8192-h{H}", packed, _wide(packed=FLASHKDA_PACKED, H=H), graph=("forward",)))
    return found


def _uneven(total: int, count: int) -> tuple[int, ...]:
    """Lengths that sum to `total` and grow evenly from about a half to one and a half of their mean."""
    ends = [round(total * (n * (count + n)) / (2 * count * count)) for n in range(count + 1)]
    return tuple(b - a for a, b in itertools.pairwise(ends))


def _skewed(total: int, count: int) -> tuple[int, ...]:
    """One sequence takes half of `total`, the others share the rest: long prompts among short ones."""
    short = total // 2 // (count - 1)
    return (total - short * (count - 1), *(short,) * (count - 1))


def _grid() -> list[Workload]:
    """After cuLA's benchmark (benchmarks/utils.py there), 64 heads: batch times length, and how a packing is spread."""
    found = []
    for B, T in itertools.product((1, 2), (512, 1024, 4096, 8192, 16384)):
        found.append(Workload(f"grid-{B}x{T}", f"{B} x {T} tokens, 64 heads (cuLA's grid)", _wide(B=B, T=T, H=64)))
    for total, count in itertools.product((4096, 8192, 16384), (10, 20)):
        for kind, spread in (("even", _even), ("uneven", _uneven), ("skewed", _skewed)):
            summary = f"{count} {kind} packed sequences, {total} tokens, 64 heads (cuLA's grid)"
            found.append(Workload(f"grid-{kind}-{total}-n{count}", summary, _wide(packed=spread(total, count), H=64)))
    return found


def _even(total: int, count: int) -> tuple[int, ...]:
    ends = [total * n // count for n in range(count + 1)]
    return tuple(b - a for a, b in itertools.pairwise(ends))


def _ladder() -> list[Workload]:
    """Long contexts at a head count small enough for memory."""
    lengths = {f"{n}k": n * 1024 for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
    return [
        Workload(f"long-{name}", f"one sequence of {name} tokens, 8 heads", _wide(T=T, H=8), ("forward",))
        for name, T in lengths.items()
    ]


def _decode() -> list[Workload]:
    found = []
    for N in (1, 32, 256, 512):
        summary = f"one token for each of {N} sequences, 32 heads, state in and out"
        found.append(Workload(f"decode-n{N}", summary, _wide(B=N, T=1, H=32), ("decode",)))
    summary = "four tokens for each of 64 sequences, 32 heads (speculative verification)"
    return [*found, Workload("decode-n64-t4", summary, _wide(B=64, T=4, H=32), ("decode",))]


def _cpu() -> list[Workload]:
    """Small enough for the loop kernels: a set of seconds, not a measure of the machine."""
    wide = {"K": 64, "V": 64, "H": 2}
    both = ("forward", "forward+backward")
    return [
        Workload("cpu-256", "one sequence of 256 tokens, 2 heads of width 64", _model(T=256, **wide), both, "cpu"),
        Workload("cpu-batch", "4 x 64 tokens, 2 heads of width 64", _model(B=4, T=64, **wide), both, "cpu"),
        Workload("cpu-packed", "packed 100, 1, 0, 64, 91", _model(packed=(100, 1, 0, 64, 91), **wide), both, "cpu"),
        Workload("cpu-grouped", "128 tokens, 2 value heads a key head", _model(T=128, group=2, **wide), both, "cpu"),
        Workload("cpu-decode", "one token for each of 16 sequences", _model(B=16, T=1, **wide), ("decode",), "cpu"),
    ]


WORKLOADS = {w.name: w for w in [*_cpu(), *_flashkda(), *_decode(), *_ladder(), *_grid()]}
SETS = {
    "cpu": ("cpu-*",),
    "gpu": ("fixed-8192-*", "packed-8192-*", "decode-*"),
    "quick": ("fixed-8192-h96", "packed-8192-h32", "decode-n1", "decode-n256"),
    "long": ("long-*",),
    "grid": ("grid-*",),
}


def choose(names: tuple[str, ...]) -> list[Workload]:
    """Workloads by name, glob or the name of a set, in their own order.

    Raises:
        ValueError: where a name matches nothing.
    """
    globs = [glob for name in names for glob in SETS.get(name, (name,))]
    for glob in globs:
        if not fnmatch.filter(WORKLOADS, glob):
            raise ValueError(
                f"--workload: nothing is called {glob!r}; sets: {', '.join(SETS)}; `kda bench --list` shows all"
            )
    return [w for w in WORKLOADS.values() if any(fnmatch.fnmatch(w.name, glob) for glob in globs)]
