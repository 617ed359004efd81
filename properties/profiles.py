"""Profiles: how many cases, how large, how long."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Profile:
    """What one run spends.

    Args:
        examples: cases drawn for each law (the laws against the oracle get twice as many); 0: pinned cases alone.
        seconds: wall time a law may take before it stops drawing; it says how far it came.
        evaluations: cases a law may try in order to make a counterexample small.
        shrink: seconds after which no more of them is begun: the end of hangs, not of slow machines.
        longest: upper end of the lengths drawn.
        widest: upper end of K and V.
        volume: upper end of tokens times value heads times the larger width.
        target: whether the error in budget units guides the search.
        large: whether laws run that fill a GPU's memory.
        simplest: whether the simplest case is tried, which is drawn first whatever the seed.
        explain: whether a counterexample is told what it looks like, and which of its fields do not matter.
    """

    examples: int
    seconds: float
    evaluations: int
    shrink: float
    longest: int
    widest: int
    volume: int = 150_000
    target: bool = False
    large: bool = False
    simplest: bool = True
    explain: bool = True


PROFILES = {
    "smoke": Profile(examples=4, seconds=3, evaluations=100, shrink=30, longest=70, widest=32),
    "dev": Profile(examples=30, seconds=6, evaluations=200, shrink=40, longest=200, widest=128),
    "interpreter": Profile(examples=6, seconds=2, evaluations=100, shrink=60, longest=70, widest=32, volume=1_000),
    "ci": Profile(examples=40, seconds=30, evaluations=300, shrink=60, longest=200, widest=128),
    "gpu": Profile(examples=40, seconds=30, evaluations=300, shrink=60, longest=520, widest=256),
    "nightly": Profile(
        examples=400,
        seconds=600,
        evaluations=500,
        shrink=120,
        longest=1100,
        widest=256,
        target=True,
        large=True,
    ),
}


def within_reach(profile: Profile, interpreted: bool) -> Profile:
    """What can be asked of a kernel: under Triton's interpreter, which takes milliseconds for a token, less of it."""
    if not interpreted:
        return profile
    least = PROFILES["interpreter"]
    sizes = {name: min(getattr(profile, name), getattr(least, name)) for name in ("longest", "widest", "volume")}
    if profile.target:  # nightly has the time
        return replace(profile, **sizes)
    return replace(
        profile, examples=min(profile.examples, least.examples), seconds=min(profile.seconds, least.seconds), **sizes
    )
