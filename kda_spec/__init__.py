"""The executable specification of Kimi Delta Attention, on NumPy alone."""

from kda_spec.adjoint import adjoint
from kda_spec.chunkwise import chunkwise
from kda_spec.equation import decay, erase, read, step, write
from kda_spec.maps import bounded_gate, l2norm, sigmoid_beta, softplus_gate
from kda_spec.problem import Problem, Solution
from kda_spec.recurrence import Trace, recurrence, solve, trace

__all__ = [
    "Problem",
    "Solution",
    "Trace",
    "adjoint",
    "bounded_gate",
    "chunkwise",
    "decay",
    "erase",
    "l2norm",
    "read",
    "recurrence",
    "sigmoid_beta",
    "softplus_gate",
    "solve",
    "step",
    "trace",
    "write",
]
