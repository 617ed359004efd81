"""The clock: device events around a call on a GPU, `perf_counter` on a CPU; and what makes every round start alike.

`now` is a timer in pytest-benchmark's sense: `end - start` of two of its instants is a duration in seconds. On a GPU an
instant is an event recorded on the current stream, so the duration is the device's own, and the subtraction waits.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Clock:
    """Times calls on a CPU with `perf_counter`."""

    name = "perf_counter"
    device = "cpu"

    def now(self) -> Any:
        """An instant; the difference of two is in seconds."""
        return time.perf_counter()

    def wait(self) -> None:
        """Wait until the device is idle."""

    def drain(self) -> float:
        """Seconds for which the device stays busy after the work of the current stream is done."""
        return 0.0


class Instant:
    """A moment on the device's current stream; subtracting an earlier one gives seconds."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, earlier: "Instant") -> float:
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) * 1e-3


class DeviceClock(Clock):
    """Times calls on a GPU with events on the current stream."""

    name = "cuda events"
    device = "cuda"

    def now(self) -> Any:
        """An event recorded now."""
        return Instant()

    def wait(self) -> None:
        """Wait until every stream of the device is idle."""
        torch.cuda.synchronize()

    def drain(self) -> float:
        """Seconds from the end of the current stream's work to the end of all work: near 0 for an honest kernel."""
        torch.cuda.current_stream().synchronize()
        start = time.perf_counter()
        torch.cuda.synchronize()
        return time.perf_counter() - start


def clock_of(device: str) -> Clock:
    """The clock of a device, "cpu" or "cuda"."""
    return DeviceClock() if device == "cuda" else Clock()


def cache_bytes(device: str) -> int:
    """Size of the last cache before memory: L2 of the GPU, or the CPU's largest (32 MiB where it is not told)."""
    if device == "cuda":
        return int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 50 << 20))
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
    return max(sizes)


class Flush:
    """Evicts the cache by writing more than it holds.

    On a GPU the 256 MiB take about 0.2 ms, in which the host runs ahead: launching is then no part of the time, unless
    it takes longer.
    """

    def __init__(self, device: str) -> None:
        size = max(2 * cache_bytes(device), 256 << 20 if device == "cuda" else 0)
        self.buffer = torch.zeros(size // 4, dtype=torch.int32, device=device)

    def __call__(self) -> None:
        """Write the buffer."""
        self.buffer.add_(1)


def poison(shapes: list[tuple[tuple[int, ...], torch.dtype]], device: str) -> None:
    """Leave NaN in freed blocks of these shapes, which the allocator then hands to the next caller who asks alike."""
    held = [torch.full(shape, float("nan"), dtype=dtype, device=device) for shape, dtype in shapes for _ in range(2)]
    del held


class Digest:
    """A hash of raw bits, computed on the device: equal for equal bits, different for any single changed element.

    Sums of words times odd weights, modulo 2^64, in two levels; and how many elements, or zeros would be as nothing.
    """

    WIDTH = 4096

    def __init__(self, device: str) -> None:
        numbers = torch.arange(1, self.WIDTH + 1, dtype=torch.int64, device=device)
        self.weights = (numbers * -7046029254386353131) | 1
        self.device = device

    def __call__(self, tensors: list[Tensor]) -> int:
        """The hash of some tensors' bits in order."""
        total = torch.zeros((), dtype=torch.int64, device=self.device)
        for x in tensors:
            total = total * 6364136223846793005 + self._one(x) + x.numel()
        return int(total)

    def _one(self, x: Tensor) -> Tensor:
        flat = x.detach().contiguous().flatten()
        words = (flat.clone() if flat.storage_offset() else flat).view(torch.uint8)
        extra = -words.numel() % 8
        if extra:
            words = torch.cat([words, words.new_zeros(extra)])
        level = words.view(torch.int64)
        while level.numel() > 1:
            extra = -level.numel() % self.WIDTH if level.numel() > self.WIDTH else self.WIDTH - level.numel()
            if extra:
                level = torch.cat([level, level.new_zeros(extra)])
            level = (level.reshape(-1, self.WIDTH) * self.weights).sum(dim=1)
            level = (level ^ (level >> 29)) * -4658895280553007687
        return level.sum()


def median(values: list[float]) -> float:
    """The median, or NaN of nothing."""
    return statistics.median(values) if values else float("nan")
