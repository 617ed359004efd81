"""Kernels under test, one file each; none of them imports the specification."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shipped:
    """A kernel of this package: where it is, in one line what it is."""

    target: str
    summary: str


SHIPPED = {
    "numpy_loop": Shipped("implementations.numpy_loop:numpy_loop", "the equation as plain loops in NumPy"),
    "torch_recurrent": Shipped(
        "implementations.torch_recurrent:torch_recurrent", "token by token in torch, differentiable"
    ),
    "torch_chunked": Shipped(
        "implementations.torch_chunked:torch_chunked", "chunk by chunk in torch (UT transform), differentiable"
    ),
    "triton_recurrent": Shipped(
        "implementations.triton_recurrent:triton_recurrent", "token by token in one Triton kernel"
    ),
    "triton_chunked": Shipped(
        "implementations.triton_chunked:triton_chunked", "chunk by chunk in Triton, fused, forward"
    ),
    "triton_training": Shipped(
        "implementations.triton_training:triton_training", "chunk by chunk in Triton, with gradients"
    ),
}
