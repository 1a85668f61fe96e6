"""Images from outside: files, archives, data sets, splits, and what is wrong with them."""

from pauca.fewshot.data.decode import decode_image
from pauca.fewshot.data.image_set import (
    check_disjoint,
    image_set_from_arrays,
    load_image_set,
    load_splits,
    read_images,
    save_image_set,
)

__all__ = [
    "check_disjoint",
    "decode_image",
    "image_set_from_arrays",
    "load_image_set",
    "load_splits",
    "read_images",
    "save_image_set",
]
