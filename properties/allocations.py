"""Guard bands around what a torch kernel allocates while it runs, so that stray writes and reads show."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GUARD = 64  # elements on each side: keeps 16-byte alignment for every dtype
ATEN = torch.ops.aten
UNWRITTEN = (ATEN.empty.memory_format, ATEN.empty_like.default, ATEN.new_empty.default, ATEN.empty_strided.default)
WRITTEN = (
    ATEN.zeros.default,
    ATEN.zeros_like.default,
    ATEN.new_zeros.default,
    ATEN.ones.default,
    ATEN.full.default,
    ATEN.full_like.default,
    ATEN.new_full.default,
    ATEN.clone.default,
)


class GuardedAllocations(TorchDispatchMode):
    """Every floating tensor allocated inside lies between bands of NaN; what was never written is NaN too.

    Args:
        stray: gets a sentence for every allocation whose bands were written.
    """

    def __init__(self, stray: list[str]) -> None:
        super().__init__()
        self.stray, self.flats = stray, list[tuple[Any, tuple[int, ...]]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ATEN.resize_.default and not args[0].untyped_storage().resizable():
            args[0].set_(args[0].clone())  # memory that grows leaves its bands
        out = func(*args, **(kwargs or {}))
        if func not in UNWRITTEN + WRITTEN or not out.is_floating_point() or out.numel() == 0:
            return out
        if out.device.type == "meta":
            return out
        size = 1 + sum((extent - 1) * stride for extent, stride in zip(out.shape, out.stride(), strict=True))
        flat = torch.full((size + 2 * GUARD,), torch.nan, dtype=out.dtype, device=out.device)
        # A storage that begins behind the first band: autograd lays views over fresh memory by their offset in it.
        view = torch.from_dlpack(flat[GUARD:]).as_strided(out.shape, out.stride())
        if func in WRITTEN:
            view.copy_(out)
        self.flats.append((flat, tuple(out.shape)))
        return view

    def examine(self) -> None:
        """Look at all bands; call it when the kernel has finished."""
        for flat, shape in self.flats:
            for side, band in (("before", flat[:GUARD]), ("behind", flat[-GUARD:])):
                if not bool(torch.isnan(band).all()):
                    self.stray.append(f"{side} a tensor of shape {list(shape)} that the kernel allocated")
