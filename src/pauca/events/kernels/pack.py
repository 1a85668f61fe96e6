"""Events as two 32-bit words each, the form in which a GPU gets them."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def pack_events(t_us, x, y, p, words, times):
    """Write words [n] int32 = x + y 2^15 + p 2^30, and times [n] int32, the lower bits of t_us."""
    for i in range(t_us.size):
        words[i] = np.int32(x[i]) | (np.int32(y[i]) << np.int32(15)) | (np.int32(p[i]) << np.int32(30))
        times[i] = np.int32(t_us[i])
