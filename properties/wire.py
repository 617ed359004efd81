"""Messages between the judge and a worker: a JSON head and raw array bytes. Nothing received is ever executed."""

import contextlib
import fcntl
import json
import os
import select
import struct
import time
from typing import Any

import numpy as np

_HEAD = struct.Struct("<4sQ")
_MAGIC = b"KDA1"


def pipe() -> tuple[int, int]:
    """A pipe that takes a whole message at once where the system lets it: less waiting for one another."""
    ends = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    return ends


def pack(message: dict[str, Any]) -> bytes:
    """One frame; arrays may stand anywhere in the top-level mapping `arrays`."""
    arrays = {name: np.ascontiguousarray(x) for name, x in message.get("arrays", {}).items()}
    head = dict(message, arrays={name: [x.dtype.str, list(x.shape)] for name, x in arrays.items()})
    text = json.dumps(head).encode()
    body = struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in arrays.values())
    return _HEAD.pack(_MAGIC, len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """The message in a frame's body; arrays are read-only views of it."""
    (size,) = struct.unpack_from("<Q", body)
    message = json.loads(body[8 : 8 + size])
    offset = 8 + size
    for name, (dtype, shape) in message["arrays"].items():
        count = int(np.prod(shape, dtype=np.int64))
        message["arrays"][name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset += count * np.dtype(dtype).itemsize
    return message


def send(fd: int, message: dict[str, Any]) -> None:
    """Write one frame to a pipe."""
    view = memoryview(pack(message))
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int, timeout: float | None = None) -> dict[str, Any] | None:
    """Read one frame; None at the end of the pipe. Raises TimeoutError, or ValueError where bytes are no frame."""
    deadline = None if timeout is None else time.monotonic() + timeout
    head = _read(fd, _HEAD.size, deadline)
    if head is None:
        return None
    magic, size = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise ValueError("the worker's channel carries bytes that are no message")
    body = _read(fd, size, deadline)
    return None if body is None else unpack(body)


def _read(fd: int, size: int, deadline: float | None) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        wait = None if deadline is None else deadline - time.monotonic()
        if wait is not None and (wait <= 0 or not select.select([fd], [], [], wait)[0]):
            raise TimeoutError
        piece = os.read(fd, min(size - len(parts), 1 << 20))
        if not piece:
            return None
        parts += piece
    return bytes(parts)
