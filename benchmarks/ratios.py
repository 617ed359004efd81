"""Comparing candidates that were timed in turns: the ratio of medians and how far it can be trusted."""

import numpy as np

RESAMPLES = 2000
# An interval wider than this tells nothing about a few percent.
WIDE = 0.1


def paired(times: list[float], base: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the medians of two candidates timed in the same rounds, and its 95 % bootstrap interval.

    Rounds are resampled as pairs, so what disturbed both candidates of a round cancels.

    Args:
        times: milliseconds of each round.
        base: the baseline's, of the same rounds.
        seed: of the resampling.

    Returns:
        ratio, low, high: above 1 is slower than the baseline.
    """
    count = min(len(times), len(base))
    a, b = np.array(times[:count]), np.array(base[:count])
    picks = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    spread = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(np.median(a) / np.median(b)), float(low), float(high)


def say(ratio: float, low: float, high: float) -> str:
    """What an interval allows to say: "slower", "faster", "no difference", or that it cannot tell.

    On a machine with other work the rounds come in bursts, and resampling them one by one makes the interval too
    narrow. So a wide interval says something only where the ratio is further from 1 than the interval is wide.
    """
    spread = high - low
    if spread > WIDE and (low <= 1 <= high or abs(np.log(ratio)) < np.log(high / low)):
        return f"cannot tell: spread {100 * spread:.0f} %"
    return "slower" if low > 1 else "faster" if high < 1 else "no difference"
