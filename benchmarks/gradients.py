"""Checking timed gradients: one sequence and one key head against the adjoint of the specification."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from benchmarks.inputs import Inputs
from benchmarks.oracle import Verdict
from kda_spec import Problem
from properties.budgets import worst
from properties.gradient_budgets import gradient_truth

NAMES = ("q", "k", "v", "g", "beta", "initial_state")
# The adjoint and its budgets take about 0.3 ms a token and head of width 128 in NumPy; a sample must stay affordable.
LONGEST = 2048


class Sample:
    """One (sequence, key head) of some inputs as a problem of its own, with its cotangents."""

    def __init__(self, x: Inputs, head: int) -> None:
        group = x.v.shape[2] // x.q.shape[2]
        usable = [n for n, length in enumerate(x.lengths) if length] or [0]
        self.n = min(usable, key=lambda n: (x.lengths[n] > LONGEST, -min(x.lengths[n], LONGEST), x.lengths[n]))
        start = sum(x.lengths[: self.n]) if x.cu_seqlens is not None else 0
        self.row = 0 if x.cu_seqlens is not None else self.n
        self.tokens = slice(start, start + x.lengths[self.n])
        self.key, self.value = slice(head, head + 1), slice(head * group, head * group + group)
        self.dtype = x.dtype
        self._truth: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        parts = {name: self.of(name, getattr(x, name)) for name in NAMES if getattr(x, name) is not None}
        self.problem = Problem(**parts, scale=x.scale, output_final_state=True)
        self.do, self.dstate = self.of("o", x.do), self.of("initial_state", x.dstate)

    @property
    def words(self) -> str:
        """What was looked at."""
        return f"sequence {self.n}, key head {self.key.start}"

    def of(self, name: str, x: Tensor | None) -> np.ndarray:
        """The sample's part of a tensor, in float64."""
        assert x is not None
        if name == "initial_state":
            part = x[self.n : self.n + 1, self.value]
        else:
            part = x[self.row : self.row + 1, self.tokens, self.key if name in ("q", "k") else self.value]
        return part.detach().double().cpu().numpy()

    def judge(self, gradients: Mapping[str, Tensor]) -> Verdict:
        """The worst error of the sample's gradients, in budget units."""
        if not self._truth:
            self._truth = gradient_truth(self.problem, self.do, self.dstate, self.dtype)
        errors = {name: worst(self.of(name, x), *self._truth[name]) for name, x in gradients.items()}
        name, found = max(errors.items(), key=lambda item: item[1].units)
        return Verdict(
            found.units,
            f"the gradient of {name} is {found.got:.4g} where the adjoint is {found.expected:.4g} "
            f"({self.words}, index {list(found.index)})",
        )
