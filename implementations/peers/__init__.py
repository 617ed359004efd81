"""Kernels of other packages, called by the contract. They are imported in a worker only, where they are asked for."""
