"""Coefficients, float32, of the series of sin(a)/a, (1 - cos(a))/a^2 and (a - sin(a))/a^3 for small rotations."""

import numpy as np

ONE = np.float32(1)
HALF = np.float32(1 / 2)
SIXTH = np.float32(1 / 6)
C4 = np.float32(1 / 24)
S5 = np.float32(1 / 120)
C6 = np.float32(1 / 720)
S7 = np.float32(1 / 5040)
C8 = np.float32(1 / 40320)
