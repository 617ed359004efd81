"""How a worker turns the wire's arrays into a kernel's arrays and back: one adapter per array library."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

GUARD = 64  # elements on each side of a guarded tensor: keeps 16-byte alignment for every dtype
FILLERS = {"nan": float("nan"), "huge": 3e4}


class Numpy:
    """NumPy kernels; bfloat16 does not exist there and is refused."""

    def make(self, x: np.ndarray, dtype: str, layout: str, filler: str | None) -> "Placed":
        """One input, laid out as asked inside its own buffer."""
        if dtype == "bfloat16":
            raise NotImplementedError("NumPy has no bfloat16")
        return Placed(self, x, dtype, layout, filler)

    def empty(self, size: int, dtype: str, value: float) -> Any:
        return np.full(size, value, dtype)

    def values(self, array: Any, what: str) -> tuple[np.ndarray, str]:
        """A result as a NumPy array the wire can carry, and the name of its dtype."""
        if not isinstance(array, np.ndarray):
            raise TypeErrorInResult(f"{what} is a {type(array).__name__}, expected a NumPy array")
        dtype = str(array.dtype)
        return (array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)), dtype

    def copy_in(self, view: Any, x: np.ndarray) -> None:
        view[...] = x

    def permute(self, view: Any, order: tuple[int, ...]) -> Any:
        return view.transpose(order)

    def bits(self, flat: Any) -> np.ndarray:
        return flat.view(np.uint8).copy()

    def overlap(self, a: Any, b: Any) -> bool:
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)

    def track(self, inputs: list[Any]) -> None:
        raise NotImplementedError("NumPy kernels carry no gradients")

    def gradients(self, *_: Any, **__: Any) -> dict[str, np.ndarray]:
        return {}

    def memory(self, poison: bool, guarded: bool, stray: list[str]) -> contextlib.AbstractContextManager[None]:
        if guarded:
            raise NotImplementedError("NumPy's allocator cannot be watched")
        return contextlib.nullcontext()

    def expand(self, base: Any, shape: tuple[int, ...]) -> Any:
        return np.broadcast_to(base, shape)

    def repeat(self, x: Any, times: int, axis: int) -> Any:
        return np.concatenate([x] * times, axis=axis)

    def join(self, parts: list[Any]) -> Any:
        return np.concatenate(parts)

    def move(self, x: Any, device: str) -> Any:
        raise NotImplementedError("NumPy arrays live on one device")

    def finish(self) -> None: ...

    def release(self, above: int) -> None: ...

    def lost(self) -> bool:
        return False

    def engine(self) -> list[str]:
        return ["numpy"]


class Torch:
    """Torch kernels on a CPU or a GPU."""

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device, self.poisoned = torch, device, False

    def make(self, x: np.ndarray, dtype: str, layout: str, filler: str | None) -> "Placed":
        """One input, laid out as asked inside its own buffer."""
        return Placed(self, x, dtype, layout, filler)

    def empty(self, size: int, dtype: str, value: float) -> Any:
        kind = getattr(self.torch, dtype)
        return self.torch.full((size,), value if kind.is_floating_point else int(value), dtype=kind, device=self.device)

    def values(self, array: Any, what: str) -> tuple[np.ndarray, str]:
        """A result as a NumPy array the wire can carry, and the name of its dtype."""
        torch = self.torch
        if not isinstance(array, torch.Tensor):
            raise TypeErrorInResult(f"{what} is a {type(array).__name__}, expected a torch tensor")
        dtype = str(array.dtype).removeprefix("torch.")
        wide = array.detach().to("cpu")
        return (wide if wide.dtype in (torch.float32, torch.float64) else wide.float()).numpy(), dtype

    def copy_in(self, view: Any, x: np.ndarray) -> None:
        view.copy_(self.torch.from_numpy(np.ascontiguousarray(x).copy()))

    def permute(self, view: Any, order: tuple[int, ...]) -> Any:
        return view.permute(order)

    def bits(self, flat: Any) -> np.ndarray:
        return flat.view(self.torch.uint8).cpu().numpy().copy()

    def overlap(self, a: Any, b: Any) -> bool:
        if not (isinstance(a, self.torch.Tensor) and isinstance(b, self.torch.Tensor)) or 0 in (a.numel(), b.numel()):
            return False
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()

    def track(self, inputs: list[Any]) -> None:
        for x in inputs:
            x.requires_grad_(True)

    def gradients(
        self, outputs: list[Any], cotangents: list[Any], inputs: dict[str, Any], *, keep: bool = False
    ) -> dict[str, Any]:
        """Gradients of the sum of outputs times cotangents; empty where the kernel's output carries none.

        `keep`: whether the graph may be differentiated again.
        """
        pairs = [(x, d) for x, d in zip(outputs, cotangents, strict=True) if x is not None and x.requires_grad]
        if not pairs:
            return {}
        grads = self.torch.autograd.grad(
            [x for x, _ in pairs], list(inputs.values()), [d for _, d in pairs], retain_graph=keep, allow_unused=True
        )
        return dict(zip(inputs, grads, strict=True))

    @contextlib.contextmanager
    def memory(self, poison: bool, guarded: bool, stray: list[str]) -> Iterator[None]:
        """Watch the allocator: fresh memory full of NaN, or bands of NaN around all that is allocated."""
        self._poison(poison)
        try:
            if guarded:
                from properties.allocations import GuardedAllocations

                with GuardedAllocations(stray) as mode:
                    yield
                mode.examine()
            else:
                yield
        finally:
            self._poison(False)

    def _poison(self, poison: bool) -> None:
        """Torch fills fresh memory with NaN in its deterministic mode, whose first use imports for a second."""
        if poison != self.poisoned:
            self.torch.use_deterministic_algorithms(poison, warn_only=True)
            self.torch.utils.deterministic.fill_uninitialized_memory = poison
            self.poisoned = poison

    def expand(self, base: Any, shape: tuple[int, ...]) -> Any:
        return base.expand(shape)

    def repeat(self, x: Any, times: int, axis: int) -> Any:
        return x.repeat(*(times if i == axis else 1 for i in range(x.ndim)))

    def join(self, parts: list[Any]) -> Any:
        return self.torch.cat(parts)

    def move(self, x: Any, device: str) -> Any:
        return x.to(device)

    def finish(self) -> None:
        if self.device != "cpu":
            self.torch.cuda.synchronize()

    def release(self, above: int) -> None:
        """Give the device back what torch keeps of it for later, if that is more than `above` bytes."""
        if self.device != "cpu" and self.torch.cuda.memory_reserved() > above and not self.lost():
            self.torch.cuda.empty_cache()

    def lost(self) -> bool:
        """Whether the device no longer answers: after an illegal access every further call of a process fails."""
        try:
            self.finish()
        except RuntimeError:
            return True
        return False

    def engine(self) -> list[str]:
        return [f"torch {self.device}"]


class TypeErrorInResult(Exception):
    """What a kernel returned is not what the contract promises."""


class Placed:
    """One input tensor inside a buffer whose every other element is known, so that stray writes show.

    `layout`: contiguous, strided (every other element of the last axis), transposed (axes 1 and 2 swapped in memory),
    sliced (the second half of axis 2 of a larger tensor that goes on along axis 1, dense inside, as in a projection of
    q, k and v in one or in a buffer for more tokens), or expanded (axes along which the numbers do not change are
    stored once, with stride 0).
    """

    def __init__(self, library: Any, x: np.ndarray, dtype: str, layout: str, filler: str | None) -> None:
        self.library, shape, self.moved = library, x.shape, False
        if layout == "expanded":
            x = x[tuple(slice(0, 1) if _constant(x, axis) else slice(None) for axis in range(x.ndim))]
        step = 2 if layout == "strided" and x.ndim >= 3 else 1
        swap = layout == "transposed" and x.ndim >= 3
        order = (0, 2, 1, *range(3, x.ndim)) if swap else tuple(range(x.ndim))
        skipped = x.shape[2] if layout == "sliced" and x.ndim >= 3 else 0
        more = {1: 1, 2: skipped} if skipped else {}
        stored = tuple(x.shape[i] * (step if i == x.ndim - 1 else 1) + more.get(i, 0) for i in order)
        whole = "int" in dtype
        size, guard = int(np.prod(stored, dtype=np.int64)), GUARD if filler and not whole else 0
        gap = float("nan") if (step > 1 or skipped) and not whole else 0.0
        fill = FILLERS[filler] if filler and not whole else gap
        self.flat = library.empty(size + 2 * guard, dtype, fill)
        view = _part(self.flat[guard : guard + size].reshape(stored), skipped)[..., ::step]
        self.view = library.permute(view, order) if swap else view
        library.copy_in(self.view, x)
        if layout == "expanded":
            self.view = library.expand(self.view, shape)
        self.before = library.bits(self.flat)
        inside = np.zeros((size + 2 * guard, self.before.size // max(size + 2 * guard, 1)), bool)
        inner = inside[guard : guard + size].reshape(*stored, -1) if size else inside
        if size:
            _part(inner, skipped)[..., ::step, :] = True
        self.inside = inside.reshape(-1)

    def move(self, device: str) -> None:
        """Put the tensor on another device."""
        self.view, self.moved = self.library.move(self.view, device), True

    def tile(self, times: int, axis: int) -> None:
        """Repeat the tensor along an axis; boundaries of packed sequences go on from copy to copy."""
        if self.view.ndim > 1:
            self.view = self.library.repeat(self.view, times, axis)
        else:
            cu = np.asarray(self.view.tolist())
            more = [cu[1:] + cu[-1] * n for n in range(times)]
            joined = np.concatenate([cu[:1], *more]).astype(np.int64)
            self.view = self.library.empty(len(joined), "int64", 0)
            self.library.copy_in(self.view, joined)

    def changed(self) -> tuple[bool, bool]:
        """Whether the tensor itself, and whether the memory around it, was written."""
        if self.moved:
            return False, False
        different = self.library.bits(self.flat) != self.before
        return bool(np.any(different & self.inside)), bool(np.any(different & ~self.inside))


def _part(x: Any, skipped: int) -> Any:
    return x[:, :-1, skipped:] if skipped else x


def _constant(x: np.ndarray, axis: int) -> bool:
    return x.shape[axis] > 1 and bool(np.all(x == np.take(x, [0], axis=axis)))


def adapter(array: str, device: str) -> Numpy | Torch:
    """The adapter of an array library, by the name a kernel file's HINTS give."""
    if array == "numpy":
        return Numpy()
    if array == "torch":
        return Torch(device)
    raise ValueError(f"array library: expected numpy or torch; got {array!r}")
