"""The laws of a kernel, in the order in which they find faults fastest. To add one, see CONTRIBUTING."""

from properties.law import LAWS

from properties.laws import oracle, bitwise, structure, memory, gradients, refusal  # isort: skip  # noqa: F401

__all__ = ["LAWS"]
