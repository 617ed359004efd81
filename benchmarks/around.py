"""What surrounds a call: copies of results, fresh memory, memory in use, and the names of the kernels it ran."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def kernel_names(call: Callable[[], None], device: str, most: int = 12) -> list[str]:
    """Names of the device kernels one call runs, the longest-running first; on a CPU the busiest operators."""
    gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as found:
        call()
        if gpu:
            torch.cuda.synchronize()
    if not gpu:
        return busiest(found.profiler.kineto_results.events())[:most]
    total: dict[str, float] = {}
    for event in found.key_averages():
        if event.device_type == DeviceType.CUDA:
            total[event.key] = total.get(event.key, 0.0) + event.self_device_time_total
    return sorted(total, key=lambda name: -total[name])[:most]


def busiest(events: Iterable[Any]) -> list[str]:
    """Names by the time in which no event inside another one ran.

    The profiler's own sums make objects of every event, which takes longer than all that is timed where a kernel goes
    token by token.
    """
    total, open_ = Counter[str](), dict[int, list[tuple[int, str]]]()
    for event in sorted(events, key=lambda event: (event.start_ns(), -event.duration_ns())):
        around, start, name = open_.setdefault(event.start_thread_id(), []), event.start_ns(), event.name()
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            total[around[-1][1]] -= event.duration_ns()
        total[name] += event.duration_ns()
        around.append((start + event.duration_ns(), name))
    return [name for name, _ in total.most_common()]


def copied(raw: Any) -> Any:
    """The result as it is at this moment."""
    if isinstance(raw, tuple):
        return tuple(copied(x) for x in raw)
    return raw.detach().clone() if isinstance(raw, Tensor) else raw.copy() if hasattr(raw, "copy") else raw


def fill_fresh_memory(on: bool) -> None:
    """Let torch fill new memory with NaN (a property of its deterministic mode)."""
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = on


def memory_in_use(device: str) -> int | None:
    """Bytes in use on a GPU, from which on its peak is then counted; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
