"""Sums whose order is written down, so that every processor rounds them alike, and vectors still do the work.

Value i goes to lane i mod `LANES`, in float32; the lanes are added in float64, in order, and then what is left behind
the last whole block, one by one.
"""

LANES = 16  # partial sums: as many as the widest vectors hold, and enough for narrower ones to overlap
