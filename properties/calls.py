"""Calling the kernel under test on a Case: from recipe to wire and back to an Output that laws compare."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from kda_spec import Problem
from properties.answer import EARLIER
from properties.case import Case, build, cotangents
from properties.process import Worker


class Refused(Exception):
    """The kernel refused the input; that region is unsupported, not wrong."""


class NotRun(Exception):
    """The call could not be made here (no memory for it); that is no verdict."""


class Broke(Exception):
    """The call itself is the verdict: `status` is crash, timeout, falsified or non-finite."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Output:
    """What one call returned: `o` [B, T, HV, V], `final_state` [N, HV, K, V] or None, gradients by input name."""

    o: np.ndarray
    final_state: np.ndarray | None
    gradients: dict[str, np.ndarray]
    dtypes: dict[str, str]
    mutated: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    aliased: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    pool: np.ndarray | None = None
    has_gradients: bool = False
    seconds: float = 0.0

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Everything that has numbers, by name."""
        state = {} if self.final_state is None else {"final_state": self.final_state}
        return {"o": self.o, **state, **self.gradients}


@lru_cache(maxsize=64)
def problem_of(case: Case) -> Problem:
    """`build`, remembered for the few cases a law looks at together."""
    return build(case)


class Kernel:
    """The kernel under test as laws see it: call it with a Case, or with a Problem that a law made from one."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.tally = {"calls": 0, "refused": 0}
        self.recorded: list[dict[str, Any]] | None = None

    def __call__(
        self,
        case: Case,
        problem: Problem | None = None,
        *,
        grad: str = "",
        do: np.ndarray | None = None,
        dstate: np.ndarray | None = None,
        extra: dict[str, Any] | None = None,
        checked: bool = True,
        arrays: dict[str, np.ndarray] | None = None,
        earlier: Problem | None = None,
        **how: Any,
    ) -> Output:
        """Call once.

        Args:
            case: gives dtype and layout (and the problem, where none is given).
            problem: another problem in place of the case's own.
            grad: which outputs carry cotangents: "o", "state", "both"; "" for a forward call.
            do: cotangent of o in place of the case's own; dstate likewise of the final state.
            dstate: see `do`.
            extra: further keyword arguments, or other values of known ones.
            arrays: tensors put in place of the problem's own (malformed inputs).
            earlier: a problem of the same shapes that is called first, in the same buffers; they are filled anew then.
            checked: whether wrong shapes and dtypes of the results are a verdict.
            how: `guard` ("nan", "huge"), `poison` (NaN-filled allocator), `allocations` (guard bands around them),
                `layout` of all tensors, `layouts` of some, `cotangents` their layout, `dtypes`, `devices`, `tile`
                (copies along the batch or token axis), `function` ("pool"), `track` (inputs that require gradients),
                `twice` (gradients of a second backward pass), `thread` (from a new one, after a call in the usual one).
        """
        problem = problem_of(case) if problem is None else problem
        message = _message(case, problem, extra or {}, how)
        if grad:
            own_do, own_dstate = cotangents(case, problem) if do is None or dstate is None else (do, dstate)
            message["how"]["grad"] = True
            if grad in ("o", "both"):
                message["arrays"]["do"] = np.float32(own_do if do is None else do)
            if grad in ("state", "both"):
                message["arrays"]["dstate"] = np.float32(own_dstate if dstate is None else dstate)
        message["arrays"].update({name: np.asarray(x, x.dtype) for name, x in (arrays or {}).items()})
        if earlier is not None:
            before = _message(case, earlier, {}, {})["arrays"]
            message["arrays"].update({EARLIER + name: x for name, x in before.items()})
        self.tally["calls"] += 1
        if self.recorded is not None:
            self.recorded.append(message)
        reply = self.worker.call(message)
        return _output(reply, case, problem, checked, self.tally)


def _message(case: Case, problem: Problem, extra: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: np.float32(getattr(problem, name)) for name in ("q", "k", "v", "g", "beta")}
    keywords: dict[str, Any] = {}
    if problem.initial_state is not None:
        arrays["initial_state"] = np.float32(problem.initial_state)
    if problem.cu_seqlens is not None:
        arrays["cu_seqlens"] = np.int64(problem.cu_seqlens)
    if problem.scale is not None:
        keywords["scale"] = float(problem.scale)
    if problem.output_final_state:
        keywords["output_final_state"] = True
    gate_dtype = case.dtype if case.gate_dtype == "same" else case.gate_dtype
    settings = {"dtype": case.dtype, "gate_dtype": gate_dtype, "layout": case.layout, **how}
    return {"arrays": arrays, "keywords": keywords | extra, "how": settings}


def _output(reply: dict[str, Any], case: Case, problem: Problem, checked: bool, tally: dict[str, int]) -> Output:
    status = reply["status"]
    if status == "refused":
        tally["refused"] += 1
        raise Refused(reply["error"])
    if status == "no-memory":
        raise NotRun(reply["error"])
    if status == "harness":
        raise RuntimeError(f"the suite could not lay the inputs out (a fault of the suite): {reply['traceback']}")
    if status != "ok":
        raise Broke(status, reply["error"] + (f"\n{reply['log']}" if reply.get("log") else ""))
    arrays = reply["arrays"]
    if "o" not in arrays:
        raise Broke("falsified", "the kernel returned None for o")
    output = Output(
        o=arrays["o"],
        final_state=arrays.get("final_state"),
        gradients={
            name: arrays["d" + name] for name in ("q", "k", "v", "g", "beta", "initial_state") if "d" + name in arrays
        },
        dtypes=reply["dtypes"],
        mutated=reply["mutated"],
        outside=reply["outside"],
        aliased=reply["aliased"],
        stray=reply["stray"],
        overwritten=reply["overwritten"],
        pool=arrays.get("pool"),
        has_gradients=bool(reply.get("has_gradients")),
        seconds=reply["seconds"],
    )
    if checked:
        _check_form(output, case, problem)
    return output


def _check_form(output: Output, case: Case, problem: Problem) -> None:
    """Shapes and dtypes as the contract has them; anything else is a falsification in words."""
    expected = {"o": ((problem.B, problem.T, problem.HV, problem.V), case.dtype)}
    if problem.output_final_state:
        if output.final_state is None:
            raise Broke("falsified", "output_final_state=True, but the kernel returned None for the final state")
        expected["final_state"] = ((problem.N, problem.HV, problem.K, problem.V), "float32")
    for name, (shape, dtype) in expected.items():
        got = output.parts[name]
        if got.shape != shape:
            raise Broke("falsified", f"{name} has shape {list(got.shape)}, expected {list(shape)}")
        if output.dtypes[name] != dtype:
            raise Broke("falsified", f"{name} is {output.dtypes[name]}, expected {dtype}")
