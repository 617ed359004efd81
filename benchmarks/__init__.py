"""Timing KDA kernels on named workloads, with every timed output checked."""
