"""A Case: the recipe of one problem, small enough to read, paste and shrink."""

import ast
from dataclasses import dataclass, fields, replace

import numpy as np

from kda_spec import Problem
from properties.numbers import draw_normal, draw_uniform, round_to
from properties.regimes import BETAS, GATES, KEYS, STATES

DTYPES = ("float32", "bfloat16", "float16")
# What a serving run may do; see `properties/serving.py`.
STEPS = ("prefill", "decode", "all", "batch", "fork", "rollback", "evict")
LAYOUTS = ("contiguous", "strided", "transposed", "sliced")


@dataclass(frozen=True, repr=False)
class Case:
    """The recipe of one problem; every default is the simplest value and the repr shows what differs from it.

    `T` and `B` describe a dense batch; a non-empty `packed` gives the lengths of packed sequences instead.
    `gate`, `key`, `beta` and `state` name regimes (`properties/regimes.py`). `v_log2` scales v and the initial state
    by a power of two. `gate_dtype` is the dtype of g and beta ("same" as the rest, or "float32").
    `at` and `power` are what a law may need besides: a place in the sequence and a power of two.
    `edits` holds up to three (tensor, token, channel, value); `steps` what a server does with a pool of states
    (`properties/serving.py`). The numbers come from a counter-based generator keyed by `seed`, tensor, sequence, token,
    head and channel, so changing one field leaves the other numbers as they were.
    """

    T: int = 1
    B: int = 1
    packed: tuple[int, ...] = ()
    H: int = 1
    group: int = 1
    K: int = 2
    V: int = 2
    dtype: str = "float32"
    gate_dtype: str = "same"
    gate: str = "zero"
    key: str = "unit"
    beta: str = "one"
    state: str = "none"
    scale: float | None = None
    final_state: bool = True
    v_log2: int = 0
    layout: str = "contiguous"
    at: int = 0
    power: int = 1
    edits: tuple[tuple[str, int, int, float], ...] = ()
    steps: tuple[tuple[str | int, ...], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Case.{name}: expected one of {', '.join(known)}; got {getattr(self, name)!r}")
        for name in ("T", "B", "H", "group", "K", "V"):
            if getattr(self, name) < (0 if name == "T" else 1):
                raise ValueError(f"Case.{name}: expected a positive number; got {getattr(self, name)}")
        for step in self.steps:
            if not step or step[0] not in STEPS or not all(isinstance(x, int) for x in step[1:]):
                raise ValueError(f"Case.steps: expected ({' | '.join(STEPS)}, numbers); got {step!r}")

    def __repr__(self) -> str:
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Case({', '.join(shown)})"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of every sequence, packed or dense."""
        return self.packed or (self.T,) * self.B

    @property
    def changed(self) -> list[str]:
        """Names of the fields that differ from their defaults."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]

    def but(self, **changes: object) -> "Case":
        """The same recipe with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


CHOICES = {
    "dtype": DTYPES,
    "gate_dtype": ("same", "float32"),
    "layout": LAYOUTS,
    "gate": tuple(GATES),
    "key": tuple(KEYS),
    "beta": tuple(BETAS),
    "state": tuple(STATES),
}


def parse(text: str) -> Case:
    """The Case that a repr such as `Case(T=3, gate='typical')` denotes; evaluates literals only."""
    cases = parse_run(text)
    if len(cases) != 1:
        raise ValueError(f"CASE: expected one case; got {len(cases)}: {text!r}")
    return cases[0]


def parse_run(text: str) -> tuple[Case, ...]:
    """The case to judge and, before it, those of the calls to make first; one a line or separated by semicolons."""
    try:
        return tuple(_parsed(statement) for statement in ast.parse(text.strip()).body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise ValueError(
            f"CASE: expected one line such as \"Case(T=3, gate='typical')\"; got {text!r}: {error}"
        ) from None


def _parsed(statement: ast.stmt) -> Case:
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not (
        isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Case" and not call.args
    ):
        raise ValueError("it is not of the form Case(field=value, ...)")
    values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    unknown = set(values) - {f.name for f in fields(Case)}
    if unknown:
        raise ValueError(f"Case has no field {', '.join(sorted(unknown))}")
    return Case(**values)


def build(case: Case) -> Problem:
    """The problem of a recipe, built in float64 and rounded once to the case's dtype.

    The returned arrays are float64 and hold exactly what the kernel will be given. Keys are used as drawn (most have
    norm 1), and beta is lowered where rounding would leave the domain `beta |k|^2 <= 2`.
    """
    lengths, H, HV = case.lengths, case.H, case.H * case.group
    N, L = len(lengths), max(lengths, default=0)
    gate_dtype = case.dtype if case.gate_dtype == "same" else case.gate_dtype
    q = draw_normal(case.seed, "q", N, L, H, case.K)
    q /= np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-30)
    q *= 2.0 ** np.floor(3 * draw_uniform(case.seed, "q/norm", N, L, H) - 1)[..., None]  # a half, one or two
    k = KEYS[case.key](case.seed, N, L, H, case.K)
    v = draw_normal(case.seed, "v", N, L, HV, case.V) * 2.0**case.v_log2
    g = np.minimum(GATES[case.gate](case.seed, N, L, HV, case.K), 0.0)
    beta = BETAS[case.beta](case.seed, N, L, HV)
    tensors = {"q": q, "k": k, "v": v, "g": g, "beta": beta}
    for name, token, channel, value in case.edits:
        _edit(tensors[name], token, channel, value)
    tensors = {name: round_to(x, gate_dtype if name in ("g", "beta") else case.dtype) for name, x in tensors.items()}
    tensors["beta"] = _keep_in_domain(tensors["beta"], tensors["k"], case.group, gate_dtype)
    state = STATES[case.state](case.seed, N, HV, case.K, case.V)
    if state is not None:
        state = round_to(state * 2.0**case.v_log2, "float32")
    placed = {name: _place(x, case) for name, x in tensors.items()}
    cu_seqlens = np.concatenate([[0], np.cumsum(case.packed)]).astype(np.int64) if case.packed else None
    return Problem(
        **placed, scale=case.scale, initial_state=state, output_final_state=case.final_state, cu_seqlens=cu_seqlens
    )


def cotangents(case: Case, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Random cotangents of o (in the case's dtype) and of the final state (float32)."""
    HV = case.H * case.group
    do = draw_normal(case.seed, "do", len(case.lengths), max(case.lengths, default=0), HV, case.V)
    dstate = draw_uniform(case.seed, "dstate", problem.N, HV, case.K, case.V) - 0.5
    return _place(round_to(do, case.dtype), case), round_to(dstate, "float32")


def _place(x: np.ndarray, case: Case) -> np.ndarray:
    """[N, L, ...] to [B, T, ...], or to [1, sum of lengths, ...] where the sequences are packed."""
    if not case.packed:
        return x
    return np.concatenate([x[n, :length] for n, length in enumerate(case.packed)], axis=0)[None]


def _edit(x: np.ndarray, token: int, channel: int, value: float) -> None:
    if x.shape[1] == 0:
        return
    flat = x[:, token % x.shape[1]].reshape(-1)
    flat[channel % flat.size] = value
    x[:, token % x.shape[1]] = flat.reshape(x[:, token % x.shape[1]].shape)


def _keep_in_domain(beta: np.ndarray, k: np.ndarray, group: int, dtype: str) -> np.ndarray:
    square = np.repeat(np.sum(k * k, axis=-1), group, axis=-1)
    ceiling = 2.0 / np.maximum(square, 1e-30)
    lowered = round_to(np.minimum(beta, ceiling * (1 - 2.0**-8)), dtype)
    return np.where(beta * square > 2.0, lowered, beta)
