"""What the Triton kernels share: what they refuse, how wide their blocks are, and how they are launched."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor


def ready(*inputs: Tensor | None) -> None:
    """Refuse what a forward Triton kernel cannot do: gradients, float64, a CPU without the interpreter.

    Raises:
        NotImplementedError: with the reason.
    """
    tensors = [x for x in inputs if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise NotImplementedError("gradients: this kernel computes the forward pass only")
    if any(x.dtype == torch.float64 for x in tensors):
        raise NotImplementedError("float64: this kernel computes in float32")
    if tensors[0].device.type == "cpu" and not interpreted():
        raise NotImplementedError("CPU tensors: set TRITON_INTERPRET=1 before Triton is imported")


@cache
def interpreted() -> bool:
    """Whether Triton runs its kernels in Python on the CPU, as was settled when they were read."""
    return bool(knobs.runtime.interpret)


def precision(dtype: torch.dtype) -> str:
    """How products of float32 numbers are formed for inputs of a dtype, as `tl.dot` names it.

    float32 inputs get three bfloat16 terms of each factor, six products: tf32x3 loses 26 roundings where a state of 1e4
    is erased (six times more than float32 products), and the compiler takes minutes over "ieee" ones.
    """
    if interpreted():
        return "ieee"
    if dtype == torch.float32:
        return "bf16x6" if tuple(int(x) for x in triton.__version__.split(".")[:2]) >= (3, 6) else "ieee"
    return "tf32x3" if dtype == torch.float16 else "tf32"


@lru_cache(maxsize=16)
def prefetches(device: torch.device) -> bool:
    """Whether kernels may ask for lines of the second cache: an instruction of NVIDIA's."""
    return device.type == "cuda" and not torch.version.hip and not interpreted()


@lru_cache(maxsize=16)
def roomy(device: torch.device) -> bool:
    """Whether a multiprocessor has 227 KiB of shared memory for a program, as Hopper's and its successor's have."""
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device)[0] in (9, 10)


def cdiv(count: int, size: int) -> int:
    """How many blocks of a size a count needs; Triton's own also takes its constants, at twenty times the cost."""
    return -(-count // size)


def padded(size: int) -> int:
    """The power of two a block of this size needs."""
    return 1 << (size - 1).bit_length() if size > 0 else 0


def alignment(K: int, V: int) -> int:
    """What K and V are told in multiples of: 16 lets rows be read 16 bytes at a time, whatever the widths are."""
    return 1 if K % 16 or V % 16 else 16


class Blocks(TensorDescriptor):
    """A descriptor that is checked where a kernel is compiled for its form, and not at every launch."""

    def __post_init__(self) -> None:
        """Checks nothing."""


def blocks(x: Tensor, rows: int, columns: int) -> Blocks:
    """A matrix in blocks, for the hardware to copy."""
    return Blocks(x, x.shape, x.stride(), [rows, columns])


def _checked(x: Any) -> Any:
    return TensorDescriptor(x.base, x.shape, x.strides, x.block_shape) if type(x) is Blocks else x


_COMPILED: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *tensors: Any, **constants: Any) -> None:
    """`kernel[grid](*tensors, **constants)` on the device of the first tensor, whichever is the current one.

    Triton looks up the compiled form of every launch anew, which takes longer on the host than a small kernel on the
    card. Here the form is remembered by all that Triton compiles anew for: types, alignment to 16 bytes, blocks of
    descriptors, numbers that are 1, multiples of 16 or beyond 32 bits, and `constants` as they are.

    Args:
        kernel: a jitted function.
        grid: one to three numbers of programs.
        *tensors: the first parameters: tensors, their descriptors, None, and numbers that change from call to call.
        **constants: all other parameters and the launch options.
    """
    device = tensors[0].device
    if not _remembered(device):
        kernel[grid](*map(_checked, tensors), **constants)
        return
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, grid, *tensors, **constants)
        return
    if _THREAD.asked is not None:
        _THREAD.asked.append((kernel, tuple(map(_checked, tensors)), constants))
        return
    key = (kernel.fn, device.index, *constants, *constants.values(), *map(_form, tensors))
    known = _COMPILED.get(key)
    if known is None and _THREAD.strict:
        raise _NotCompiled
    _enter()
    if known is None:
        compiled = kernel[grid](*map(_checked, tensors), **constants)
        _COMPILED[key] = compiled, tuple(constants[name] for name in kernel.arg_names[len(tensors) :])
        return
    compiled, rest = known
    grid = (*grid, 1, 1)[:3]
    if _observed():
        compiled[grid](*tensors, *rest)
    else:  # what the line above ends in, without the dictionaries it makes for observers
        stream = driver.active.get_current_stream(device.index)
        compiled.run(*grid, stream, compiled.function, compiled.packed_metadata, None, None, None, *tensors, *rest)


def _observed() -> bool:
    """Whether somebody, as a profiler, has asked Triton to be called at each launch."""
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)


class _Thread(threading.local):
    """Whether CUDA knows this thread, and whether it is in `together`, may not compile, or collects its launches."""

    entered = False
    inside = False
    strict = False
    asked: list[Any] | None = None


class _NotCompiled(Exception):
    """A kernel would have to be compiled before it can be launched."""


_THREAD = _Thread()
Result = TypeVar("Result")


def together(device: torch.device, call: Callable[[], Result], later: Callable[[], object] = lambda: None) -> Result:
    """`call()`, whose kernels are compiled side by side where this process has not compiled them yet.

    Compiled where they are launched, one waits for the other: the ten of a training step take more than ten seconds.
    Inside another's `call` or `later` it compiles nothing by itself.

    Args:
        device: where `call` launches.
        call: launches kernels with `launch`; it is called up to three times, once without any launch.
        later: what the caller will want next: where something has to be compiled its kernels are too, and not launched;
            what it raises it will raise again.
    """
    if _THREAD.inside or not _remembered(device) or not hasattr(triton, "AsyncCompileMode"):
        return call()
    _THREAD.inside = True
    try:
        return _together(device, call, later)
    finally:
        _THREAD.inside = False


def _together(device: torch.device, call: Callable[[], Result], later: Callable[[], object]) -> Result:
    _THREAD.strict = True
    try:
        return call()
    except _NotCompiled:
        pass
    finally:
        _THREAD.strict = False
    _THREAD.asked = asked = []
    try:
        with suppress(torch.OutOfMemoryError):  # all that is collected is held at once, more than a call needs
            call()
        with suppress(RuntimeError):
            later()
    finally:
        _THREAD.asked = None
    _compile(device, asked)
    asked.clear()
    return call()


def _compile(device: torch.device, asked: list[Any]) -> None:
    """Compile for launches that were asked for; an error is told where the kernel is launched."""
    threads = min(len(asked), os.cpu_count() or 1)
    with (
        torch.cuda.device(device),
        _Loaders(max(threads, 1), initializer=_enter_device, initargs=(device,)) as pool,
        triton.AsyncCompileMode(pool, ignore_errors=True),
    ):
        for kernel, tensors, constants in asked:
            kernel.warmup(*tensors, grid=(1,), **constants)


class _Loaders(ThreadPoolExecutor):
    """Threads that compile a kernel and load it to the card, the stub in C that launches it included.

    Triton builds that stub where a kernel is first launched; on threads the C compilers too run side by side.
    """

    def submit(self, compile_kernel: Callable[[], Any]) -> Future[Any]:  # type: ignore[override]
        return super().submit(_loaded, compile_kernel)


def _loaded(compile_kernel: Callable[[], Any]) -> Any:
    compiled = compile_kernel()
    compiled.run  # noqa: B018  # a property that loads
    return compiled


def _enter_device(device: torch.device) -> None:
    torch.cuda.set_device(device)
    _enter()


def _enter() -> None:
    """Give this thread a context of the driver, by one question that changes nothing and that a capture allows.

    Tensors are described to the hardware through the driver, which has none for a thread that has asked CUDA for
    nothing yet. Autograd's is such a thread, where all memory of a backward pass comes from what torch keeps.
    """
    if not _THREAD.entered:
        torch.cuda.is_current_stream_capturing()
        _THREAD.entered = True


def _remembered(device: torch.device) -> bool:
    # ROCm compiles for the size of a tensor's storage too; torch.compile takes launches as Triton has them.
    return device.type == "cuda" and not torch.version.hip and not torch.compiler.is_compiling()


def _form(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.dtype, x.data_ptr() % 16 == 0
    if isinstance(x, TensorDescriptor):
        return x.base.dtype, x.base.data_ptr() % 16 == 0, *x.block_shape
    if type(x) is int:
        return x == 1, x % 16 == 0, -(2**31) <= x < 2**31
    return type(x)
