"""The laws of a kernel, in the order in which they find faults fastest. To add one, see CONTRIBUTING."""

from properties.law import LAWS

from properties.laws import (  # isort: skip  # noqa: F401
    oracle, sequences, bitwise, memory, arguments, refusal, channels, gradients, serving, scale, quality
)  # fmt: skip

__all__ = ["LAWS"]
