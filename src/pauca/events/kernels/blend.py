"""One image of all events beside the images of its groups: add the votes, mix the slopes, empty them all."""

from numba import njit


@njit(cache=True, nogil=True)
def add_images(images, box, pad, out):
    """out [h, w] = sum of images [k, h, w], all float32, inside the box: first and last column and row of the frame."""
    x_low, x_high, y_low, y_high = box
    left, right = pad + x_low, pad + x_high + 1
    for row in range(pad + y_low, pad + y_high + 1):
        line = out[row, left:right]
        line[:] = images[0, row, left:right]
        for k in range(1, images.shape[0]):
            more = images[k, row, left:right]
            for c in range(line.size):
                line[c] += more[c]


@njit(cache=True, nogil=True)
def blend_slopes(slopes, common, share, box, pad):
    """slopes [k, h, w] = (1 - share) slopes + share common [h, w], inside the box, where the events read them."""
    x_low, x_high, y_low, y_high = box
    left, right = pad + x_low, pad + x_high + 1
    for k in range(slopes.shape[0]):
        for row in range(pad + y_low, pad + y_high + 1):
            line, other = slopes[k, row, left:right], common[row, left:right]
            for c in range(line.size):
                line[c] += share * (other[c] - line[c])


@njit(cache=True, nogil=True)
def empty_images(images, left, right, top, bottom):
    """Set images [k, h, w] to zero in columns left to right - 1 and rows top to bottom - 1."""
    for k in range(images.shape[0]):
        for row in range(top, bottom):
            images[k, row, left:right] = 0
