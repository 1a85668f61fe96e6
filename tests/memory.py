"""How much memory a process of its own took at most."""

PEAK = r"""
import re
def peak_kib():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""
"""Defines `peak_kib()` in a program that a test runs. What `getrusage` says begins with the memory of the parent."""
