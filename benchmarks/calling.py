"""Calling a kernel as a workload asks: forward, forward and backward, one decode step, or a replayed CUDA graph."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gradients import NAMES
from benchmarks.inputs import DTYPES, Inputs
from properties.targets import Target, load

REFUSALS = (ValueError, TypeError, NotImplementedError, AssertionError)


class WrongForm(Exception):
    """A kernel's result has not the form that the contract promises."""


@dataclass(frozen=True)
class Candidate:
    """A loaded kernel. `pool` is its serving call, which updates slots of a state pool in place, where it has one."""

    label: str
    kernel: Any
    array: str = "torch"
    pool: Any = None

    @property
    def triton(self) -> bool:
        """Whether the kernel's file uses Triton, which a CPU interprets."""
        return hasattr(sys.modules.get(getattr(self.kernel, "__module__", "")), "triton")

    @staticmethod
    def load(label: str, text: str, array: str) -> "Candidate":
        """Import a TARGET and read its hints.

        Raises:
            Exception: whatever importing the target raises.
        """
        target = Target.parse(text)
        kernel, hints = load(target)
        pool = hints.get("pool")
        if isinstance(pool, str):
            pool = getattr(sys.modules.get(kernel.__module__) or importlib.import_module(kernel.__module__), pool)
        return Candidate(label, kernel, hints.get("array", array), pool)

    def call(self, x: Inputs, mode: str) -> "Call":
        """What is timed, bound to some input tensors; refuses what the kernel's array library cannot hold."""
        if self.array == "numpy":
            return NumpyCall(self, x, mode)
        if mode == "forward+backward":
            return BackwardCall(self, x)
        return PoolCall(self, x) if mode == "decode" and self.pool is not None else Call(self, x)


class Call:
    """One forward call on fixed tensors: calling it is what is timed; `results` then names and checks the tensors."""

    def __init__(self, candidate: Candidate, x: Inputs) -> None:
        self.x, self.kernel = x, candidate.kernel
        self.arguments: tuple[Any, ...] = (x.q, x.k, x.v, x.g, x.beta)
        self.keywords: dict[str, Any] = {"output_final_state": True}
        self.keywords |= {
            name: getattr(x, name) for name in ("scale", "initial_state", "cu_seqlens") if getattr(x, name) is not None
        }

    def restore(self) -> None:
        """Undo what the last call changed by right; not timed."""

    def __call__(self) -> Any:
        """Call the kernel."""
        with torch.no_grad():
            return self.kernel(*self.arguments, **self.keywords)

    def results(self, raw: Any) -> dict[str, Tensor]:
        """The result's tensors by name.

        Raises:
            WrongForm: where it is not the pair the contract promises.
        """
        if not (isinstance(raw, tuple) and len(raw) == 2):
            raise WrongForm(f"the kernel returned {type(raw).__name__}, expected the pair (o, final_state)")
        found = {"o": raw[0], "final_state": raw[1]}
        for name, (shape, dtype) in self.expected().items():
            x = found[name]
            if not isinstance(x, Tensor) or tuple(x.shape) != shape or x.dtype != dtype:
                got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise WrongForm(f"{name} is {got}, expected {dtype} {list(shape)}")
        return found

    def expected(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every result."""
        (_, _, HV, V), K = self.x.v.shape, self.x.q.shape[-1]
        state = ((len(self.x.lengths), HV, K, V), torch.float32)
        return {"o": (tuple(self.x.v.shape), DTYPES[self.x.dtype]), "final_state": state}


class NumpyCall(Call):
    """A forward call on NumPy arrays that share the tensors' memory."""

    def __init__(self, candidate: Candidate, x: Inputs, mode: str) -> None:
        if mode == "forward+backward":
            raise NotImplementedError("NumPy kernels carry no gradients")
        if x.v.dtype == torch.bfloat16 or x.g.dtype == torch.bfloat16:
            raise NotImplementedError("NumPy has no bfloat16")
        if x.v.device.type != "cpu":
            raise NotImplementedError("NumPy kernels run on the CPU only")
        super().__init__(candidate, x)
        plain = lambda y: y.numpy() if isinstance(y, Tensor) else y  # noqa: E731
        self.arguments = tuple(plain(y) for y in self.arguments)
        self.keywords = {name: plain(y) for name, y in self.keywords.items()}

    def results(self, raw: Any) -> dict[str, Tensor]:
        """See `Call.results`."""
        if isinstance(raw, tuple):
            raw = tuple(torch.from_numpy(y) if type(y).__name__ == "ndarray" else y for y in raw)
        return super().results(raw)


class BackwardCall(Call):
    """Forward, then the gradients of <do, o> + <dstate, final_state> in every floating input."""

    def __init__(self, candidate: Candidate, x: Inputs) -> None:
        super().__init__(candidate, x)
        self.leaves = {
            name: getattr(x, name).detach().requires_grad_(True) for name in NAMES if getattr(x, name) is not None
        }
        self.arguments = tuple(self.leaves[name] for name in ("q", "k", "v", "g", "beta"))
        if "initial_state" in self.leaves:
            self.keywords["initial_state"] = self.leaves["initial_state"]

    def __call__(self) -> Any:
        """Call the kernel and differentiate."""
        with torch.enable_grad():
            o, state = self.kernel(*self.arguments, **self.keywords)
            pairs = [(y, d) for y, d in ((o, self.x.do), (state, self.x.dstate)) if y is not None and y.requires_grad]
            if not pairs:
                raise NotImplementedError("the output carries no gradients")
            outputs, cotangents = zip(*pairs, strict=True)
            return o, state, torch.autograd.grad(outputs, tuple(self.leaves.values()), cotangents, allow_unused=True)

    def results(self, raw: Any) -> dict[str, Tensor]:
        """See `Call.results`; gradients are named dq, dk, .."""
        o, state, gradients = raw
        found = super().results((o.detach(), None if state is None else state.detach()))
        for (name, leaf), gradient in zip(self.leaves.items(), gradients, strict=True):
            if gradient is None or gradient.shape != leaf.shape or gradient.dtype != leaf.dtype:
                got = "missing" if gradient is None else f"{gradient.dtype} {list(gradient.shape)}"
                raise WrongForm(f"the gradient of {name} is {got}, expected {leaf.dtype} {list(leaf.shape)}")
            found["d" + name] = gradient
        return found


class PoolCall(Call):
    """A serving step: the states live in slots of a pool, in no order, between free slots that hold NaN."""

    def __init__(self, candidate: Candidate, x: Inputs) -> None:
        super().__init__(candidate, x)
        if x.initial_state is None:
            raise NotImplementedError("a pool needs initial states")
        N, device = len(x.lengths), x.v.device
        self.slots = torch.arange(N, 0, -1, dtype=torch.int64, device=device)
        self.pool = torch.full((N + 2, *x.initial_state.shape[1:]), float("nan"), device=device)
        self.kernel = candidate.pool
        self.keywords = {name: y for name, y in self.keywords.items() if name in ("scale", "cu_seqlens")}
        self.keywords |= {"pool": self.pool, "slots": self.slots}

    def restore(self) -> None:
        """Put the initial states back into their slots."""
        self.pool.index_copy_(0, self.slots, self.x.initial_state)

    def results(self, raw: Any) -> dict[str, Tensor]:
        """See `Call.results`; the final states are those found in the pool."""
        if not bool(torch.isnan(self.pool[[0, -1]]).all()):
            raise WrongForm("the call wrote to a free slot of the pool")
        return super().results((raw, self.pool[self.slots]))


class GraphCall:
    """A call captured in a CUDA graph; calling it replays the graph on the same memory."""

    def __init__(self, call: Call) -> None:
        self.call, self.x, self.keywords = call, call.x, call.keywords
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call.restore()
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.raw = call()
        torch.cuda.synchronize()

    def restore(self) -> None:
        """Undo what the last call changed by right, and leave NaN in the static results."""
        self.call.restore()
        for x in _tensors(self.raw):
            x.detach().fill_(float("nan"))

    def __call__(self) -> Any:
        """Replay."""
        self.graph.replay()
        return self.raw

    def results(self, raw: Any) -> dict[str, Tensor]:
        """See `Call.results`."""
        return self.call.results(raw)

    def expected(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `Call.expected`."""
        return self.call.expected()


def _tensors(raw: Any) -> Iterator[Tensor]:
    """The tensors of a result, gradients too."""
    if isinstance(raw, Tensor):
        yield raw
    elif isinstance(raw, tuple):
        for x in raw:
            yield from _tensors(x)
