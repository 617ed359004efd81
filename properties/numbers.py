"""Counter-based random numbers and rounding to the dtypes of a kernel."""

import zlib

import numpy as np

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MULTIPLIERS[1])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MULTIPLIERS[2])
    return x ^ (x >> np.uint64(31))


def draw_uniform(seed: int, name: str, *shape: int) -> np.ndarray:
    """Uniform numbers in (0, 1), each a hash of (seed, name, its own index): independent of every other extent."""
    with np.errstate(over="ignore"):
        key = np.array((seed * 0x100000001 + zlib.crc32(name.encode())) & 0xFFFFFFFFFFFFFFFF, np.uint64)
        counter = _mix(key)
        for axis, extent in enumerate(shape):
            index = np.arange(extent, dtype=np.uint64).reshape((-1,) + (1,) * (len(shape) - 1 - axis))
            counter = _mix(counter + (index + np.uint64(1)) * np.uint64(_MULTIPLIERS[0]))
    return ((counter >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def draw_normal(seed: int, name: str, *shape: int) -> np.ndarray:
    """Standard normal numbers by Box-Muller from two independent uniform draws; stable like `draw_uniform`."""
    radius = np.sqrt(-2.0 * np.log(draw_uniform(seed, name + "/radius", *shape)))
    return radius * np.cos(2.0 * np.pi * draw_uniform(seed, name + "/angle", *shape))


def round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest value of `dtype` (ties to even), returned as float64."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32).astype(np.float64)
    return np.asarray(x).astype(dtype).astype(np.float64)
