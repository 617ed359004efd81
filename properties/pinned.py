"""Cases that once broke a kernel somewhere; every law tries them before it draws its own. Each names its source.

Those with `steps` are runs of a server, for the laws of serving; the others are for all other laws. `at`, the place or
variant that a law may need, differs from one to the next, so that each law meets several.
"""

from properties.case import Case

# (case, what it once showed)
HISTORY: tuple[tuple[Case, str], ...] = (
    (
        Case(T=22, K=16, V=16, dtype="bfloat16", gate="production", at=21),
        "fla #1240: look-ahead through the exponent anchor",
    ),
    (Case(T=5, gate="channel", at=3), "fla #652: exp of a gate difference before the causal mask"),
    (Case(T=65, K=16, V=16, gate="pinned", at=64), "cudnn-frontend #1017: all gates at the bound"),
    (Case(T=64, K=32, V=16, key="cone", beta="near-one", at=31), "tt-metal #54813: inverse by repeated squaring"),
    (Case(T=3, B=2, K=3, V=2, state="asymmetric", at=1), "vllm #41292: state layout [V, K]"),
    (
        Case(packed=(63, 65), K=8, V=8, gate="strong", group=2, state="random", at=62),
        "sglang-jax #1587: a boundary inside a tile",
    ),
    (Case(T=17, K=60, V=24, gate="typical", state="random", at=6), "fla #1135: lanes that pad K to a power of two"),
    (
        Case(T=17, K=60, V=24, gate="slow", beta="near-one", at=9, seed=1),
        "FlashKDA #24, cuLA #77: the shapes of the call before and other numbers, some of the old ones still in use",
    ),
    (
        Case(T=65, K=4, V=3, dtype="bfloat16", gate="steady", beta="tiny", state="random", at=17),
        "fla #720: the exponential taken in the gate's half precision",
    ),
    (
        Case(T=3, K=8, V=8, dtype="float16", key="same", beta="two", state="random", at=2),
        "lore of ports: updates kept in float16, whose residual is larger than the values",
    ),
    (
        Case(T=17, H=2, group=2, K=72, V=100, gate="typical", beta="random", state="random", at=12),
        "lore of ports: of several blocks of 16, 32 or 64 rows or columns the last is not full",
    ),
    (
        Case(T=100, K=96, V=40, gate="slow", beta="random", state="random", at=70),
        "fla #876: wide keys in chunks of another length than narrow ones; the size that models have",
    ),
    (
        Case(T=3, K=131, V=197, gate="half", beta="random", state="random", at=2),
        "lore of ports: wider than a block of 128, a width that nothing divides, and another fate beyond a block",
    ),
    (
        Case(T=40, H=2, K=8, V=4, dtype="bfloat16", gate="channel", beta="random", state="random", at=16),
        "lore of ports: a channel that fades at once sends its rows another way than the usual one",
    ),
    (
        Case(T=63, K=8, V=4, gate="typical", beta="random", at=47),
        "intel/llm-scaler #464: a whole tile is stored, one element behind the end",
    ),
    (
        Case(H=2, group=2, K=4, V=3, gate="typical", state="random"),
        "lore of ports: a call of one token goes another way",
    ),
    (
        Case(packed=(2, 0, 1), K=4, V=3, gate="typical", state="random", at=1),
        "lore of ports: as many tokens as sequences, which are not one token each",
    ),
    (Case(packed=(15, 0, 1, 17), K=4, V=3, gate="mixed", state="random", at=5), "flashinfer #3536: an empty sequence"),
    (
        Case(
            packed=(33, 66), group=2, K=72, V=16, dtype="bfloat16", gate="typical", beta="random", state="random", at=63
        ),
        "lore of ports: a whole chunk, copied by the hardware, goes another way; a longer sequence behind",
    ),
    (
        Case(H=2, K=4, V=3, gate="slow", steps=(("prefill", 0, 3), ("decode", 0), ("rollback", 0, 1), ("decode", 0))),
        "vllm #40738: tokens taken back are still in the state",
    ),
    (
        Case(
            K=4, V=3, gate="slow", at=2, steps=(("prefill", 0, 2), ("fork", 0, 1), ("decode", 0, 1), ("decode", 1, 0))
        ),
        "lore of servers: two requests from one prefix, then in another order",
    ),
    (
        Case(
            K=4,
            V=3,
            gate="slow",
            at=1,
            steps=(("prefill", 2, 2), ("evict", 2), ("decode", 2, -1), ("batch", 2, 3, 0, 1)),
        ),
        "vllm #51483, ATOM #1436: a slot is used again, and its first user is still in it; padding beside it",
    ),
    (
        Case(K=16, V=8, gate="typical", beta="sparse", steps=(("all", 11), ("all", 7), ("all", 11))),
        "lore of decode kernels: a block of rows that is not full; tokens that only let the state fade",
    ),
)
PINNED: tuple[Case, ...] = tuple(case for case, _ in HISTORY)
WIDE, LARGE = 128, 8000


def pinned_for(family: str, interpreted: bool) -> tuple[Case, ...]:
    """The pinned cases of a family of laws; interpreted, large ones only for the oracle's, which call each once."""
    large = not interpreted or family == "oracle"
    return tuple(case for case in PINNED if large or (max(case.K, case.V) <= WIDE and case.T * case.K <= LARGE))
