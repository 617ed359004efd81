"""Serving laws: states of many requests in one pool, advanced, forked, taken back, evicted and used again."""

import numpy as np

from properties.calls import Broke, Kernel, Output, Refused
from properties.case import Case
from properties.edits import with_
from properties.law import Judgement, law, need_state
from properties.numbers import draw_uniform
from properties.serving import SLOTS, Place, Server, slots_of


def _server(case: Case) -> Case:
    """Small widths, no edits, at least one step."""
    small = {name: min(getattr(case, name), 16) for name in ("K", "V")}
    steps = case.steps or (("prefill", 0, 1),)
    return case.but(
        T=1, B=1, packed=(), H=min(case.H, 3), group=min(case.group, 2), state="none", final_state=True, edits=(),
        at=case.at % 4, v_log2=0, steps=steps, **small,
    )  # fmt: skip


@law(
    "serving",
    "States handed from call to call serve requests in any order: prefill, decode, fork, roll back, evict, reuse.",
    "(o, S') = f(x, S) for every slot's tokens x and state S  =>  o, S' of the recurrence over all its tokens",
    adjust=_server,
    serves=True,
)
def a_server_can_keep_the_states(kernel: Kernel, case: Case) -> Judgement:
    def advance(server: Server, slots: list[int], places: list[list[Place]]) -> tuple[np.ndarray, np.ndarray]:
        """Gather the states, call, hand the new ones back; rows of a padding slot hold zeros."""
        flat, counts = [place for some in places for place in some], [len(some) for some in places]
        tokens, states = server.tokens(flat), [server.state(slot) if slot >= 0 else None for slot in slots]
        shape = (server.source.HV, server.source.K, server.source.V)
        fresh = all(state is None for state in states) and case.at % 2 == 0
        gathered = None if fresh else np.stack([np.zeros(shape) if state is None else state for state in states])
        if set(counts) == {1} and case.at < 2:
            dense = {name: x[0][:, None] for name, x in tokens.items()}
            problem = with_(server.source, **dense, initial_state=gathered)
            output = kernel(case, problem)
            return output.o[:, 0][None], need_state(output)
        cu_seqlens = None if len(slots) == 1 and case.at < 2 else np.concatenate([[0], np.cumsum(counts)])
        problem = with_(server.source, **tokens, initial_state=gathered, cu_seqlens=cu_seqlens)
        output = kernel(case, problem)
        return output.o, need_state(output)

    return Server(case, advance).run()


@law(
    "serving",
    "The pool call advances the named slots in place and leaves every other row of the pool its bits.",
    "pool'[slots] = f(x, pool[slots]), pool' = pool elsewhere; slot -1 is padding: o = 0 there; free rows hold NaN",
    adjust=_server,
    serves=True,
)
def a_pool_call_serves_its_slots(kernel: Kernel, case: Case) -> Judgement:
    if not kernel.worker.hints.get("pool"):
        raise Refused("the kernel's file names no pool call (HINTS = {'pool': 'function'})")
    used = slots_of(case)
    size = used + SLOTS + 1
    # Slot -1 taken for an index means the last row, clamped it means the first: both are in use.
    rows = [size - 1, 0, *(1 + np.argsort(draw_uniform(case.seed, "rows", size - 2))[: used - 2])]

    def advance(server: Server, slots: list[int], places: list[list[Place]]) -> tuple[np.ndarray, np.ndarray]:
        """Fill a pool with what the slots hold, NaN in all free rows, and call on it."""
        source = server.source
        pool = np.full((size, source.HV, source.K, source.V), np.nan, np.float32)
        for slot in server.slots:
            state = server.state(slot)
            pool[rows[slot]] = 0.0 if state is None else state
        named = np.array([rows[slot] if slot >= 0 else -1 for slot in slots], np.int64)
        problem, counts = server.tokens([p for some in places for p in some]), [len(some) for some in places]
        one_each = set(counts) == {1} and case.at < 2
        tokens = {name: x[0][:, None] if one_each else x for name, x in problem.items()}
        arrays = {"pool": pool, "slots": named}
        if not one_each:
            arrays["cu_seqlens"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        call = with_(source, **tokens, output_final_state=False)
        output = kernel(case, call, arrays=arrays, function="pool", checked=False)
        after = _untouched(output, pool, [int(row) for row in named if row >= 0])
        o = output.o[:, 0][None] if one_each else output.o
        _zero_for_padding(o, np.repeat(named, counts))
        return o, np.stack([after[row] for row in named])

    return Server(case, advance).run()


def _zero_for_padding(o: np.ndarray, named: np.ndarray) -> None:
    """A server hands the whole batch on: what stands in a padding row reaches whatever mixes rows behind the kernel."""
    wrong = o[0, named < 0]
    if np.any(wrong != 0):
        raise Broke("falsified", f"o of a padding slot (-1) holds {wrong[wrong != 0][0]:.6g} where 0 is promised")


def _untouched(output: Output, pool: np.ndarray, named: list[int]) -> np.ndarray:
    """The pool after the call, once its other rows are found to be as they were."""
    if output.pool is None or output.pool.shape != pool.shape:
        raise Broke("falsified", "the pool call changed the pool's shape")
    for row in range(len(pool)):
        if row not in named and output.pool[row].tobytes() != pool[row].tobytes():
            raise Broke("falsified", f"row {row} of the pool changed; the call named rows {named} only")
    return output.pool
