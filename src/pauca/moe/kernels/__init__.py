"""Triton kernels, one operation a file: pointers, offsets and bit arithmetic. `pauca.moe.ops` decides when they run."""
