"""Images from outside: files, archives, data sets, splits, and what is wrong with them."""

from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.data.decode import decode_image, load_images
from pauca.fewshot.data.glyphs import draw_glyphs
from pauca.fewshot.data.image_set import (
    check_disjoint,
    image_set_from_arrays,
    load_image_set,
    load_splits,
    read_images,
    save_image_set,
)
from pauca.fewshot.data.prepare import BENCHMARKS, PreparedReport, prepare_benchmark
from pauca.fewshot.data.scan import ScanReport, scan_images
from pauca.fewshot.data.sources import open_training
from pauca.fewshot.data.splits import SplitLists, read_split_lists

__all__ = [
    "BENCHMARKS",
    "Fitting",
    "PreparedReport",
    "ScanReport",
    "SplitLists",
    "check_disjoint",
    "decode_image",
    "draw_glyphs",
    "image_set_from_arrays",
    "load_image_set",
    "load_images",
    "load_splits",
    "open_training",
    "prepare_benchmark",
    "read_images",
    "read_split_lists",
    "save_image_set",
    "scan_images",
]
