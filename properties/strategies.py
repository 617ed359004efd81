"""Hypothesis strategies for Cases: the recipe is drawn, never the arrays."""

from functools import lru_cache

from hypothesis import strategies as st

from properties.case import DTYPES, LAYOUTS, Case
from properties.profiles import Profile
from properties.regimes import BETAS, GATES, KEYS, STATES

# Where kernels change their path: around nothing, the sub-chunk, the chunk and two chunks. Plain integers, so that
# Hypothesis also tries them by itself.
SUBCHUNK = 16
CHUNK = 64
EDGES = (
    1,
    2,
    SUBCHUNK - 1,
    SUBCHUNK,
    SUBCHUNK + 1,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    2 * CHUNK - 1,
    2 * CHUNK,
    2 * CHUNK + 1,
)
PACKED = (1, 0, 2, 15, 17, 63, 65, 64)
WIDTHS = (2, 1, 3, 4, 8, 16, 12, 20, 24, 31, 32, 36, 60, 64, 65, 72, 97, 100, 127, 128, 129, 256)
# A number, or None for the default, that a power of two does not hide.
SCALES = (None, 1.0, 0.3, 0.125)


@lru_cache(maxsize=32)  # what Hypothesis finds out about a strategy is kept in it
def cases(profile: Profile, dtypes: tuple[str, ...] = DTYPES, serves: bool = False) -> st.SearchStrategy[Case]:
    """Cases of a profile; `dtypes` limits the dtypes of q, k, v and o; `serves` adds the steps of a serving run."""
    lengths = st.one_of(
        st.integers(1, 20),
        st.sampled_from([edge for edge in EDGES if edge <= profile.longest]),
        st.integers(1, profile.longest),
    )
    packings = st.one_of(
        st.just(()),
        st.lists(st.sampled_from([p for p in PACKED if p <= profile.longest]), min_size=1, max_size=4).map(tuple),
    )
    widths = st.one_of(
        st.sampled_from([w for w in WIDTHS if w <= min(profile.widest, 16)]),
        st.sampled_from([w for w in WIDTHS if w <= profile.widest]),
    )
    edit = st.tuples(
        st.sampled_from(["v", "q", "k", "g", "beta"]), st.integers(0, 130), st.integers(0, 300), st.just(0.0)
    )
    return st.builds(
        Case,
        T=lengths,
        B=st.sampled_from([1, 2, 3]),
        packed=packings,
        H=st.sampled_from([1, 2, 3, 8] if profile.longest > 100 else [1, 3]),
        group=st.sampled_from([1, 2, 3, 4]),
        K=widths,
        V=widths,
        dtype=st.sampled_from(dtypes),
        gate_dtype=st.sampled_from(["same", "float32"]),
        gate=st.sampled_from(list(GATES)),
        key=st.sampled_from(list(KEYS)),
        beta=st.sampled_from(list(BETAS)),
        state=st.sampled_from(list(STATES)),
        scale=st.sampled_from(SCALES),
        final_state=st.sampled_from([True, True, False]),
        v_log2=st.integers(-20, 20) | st.just(0),
        layout=st.sampled_from(LAYOUTS),
        at=st.integers(0, profile.longest),
        power=st.integers(1, 3),
        edits=st.just(()) | st.lists(edit, max_size=3).map(tuple),
        steps=serving(profile) if serves else st.just(()),
        seed=st.integers(0, 2**16),
    ).map(lambda case: legal(case, profile.volume))


def serving(profile: Profile) -> st.SearchStrategy[tuple[tuple[str | int, ...], ...]]:
    """What a server does with the states of a few requests: any order is legal."""
    slot, tokens = st.integers(0, 3), st.sampled_from([n for n in (1, 2, 5, 16, 17, 65) if n <= profile.longest])
    many = st.sampled_from([n for n in (5, 7, 11, 17, 33) if n <= max(5, profile.longest // 4)])
    each = st.permutations([-1, 0, 1, 2, 3]).flatmap(lambda order: st.integers(1, 4).map(lambda n: order[:n]))
    step = st.one_of(
        st.tuples(st.just("prefill"), slot, tokens),
        each.map(lambda slots: ("decode", *slots)),
        many.map(lambda n: ("all", n)),
        st.tuples(st.just("batch"), st.integers(0, 1), tokens, st.integers(2, 3), st.sampled_from([0, 1, 3])),
        st.tuples(st.just("fork"), slot, slot),
        st.tuples(st.just("rollback"), slot, st.integers(1, 3)),
        st.tuples(st.just("evict"), slot),
    )
    return st.lists(step, min_size=2, max_size=8).map(tuple)


def legal(case: Case, volume: int) -> Case:
    """The case inside what a dtype can hold, and not larger than one call should be."""
    changes: dict[str, object] = {}
    if case.packed:
        changes.update(B=1, T=1)
    if case.dtype == "float16":
        changes["v_log2"] = -8 if case.state in ("huge", "spike") else max(-4, min(2, case.v_log2))
    wide = max(case.K, case.V) * sum(case.lengths) * case.H * case.group
    if wide > volume:
        changes.update(H=1, B=1, group=min(case.group, 2))
    return case.but(**changes)
