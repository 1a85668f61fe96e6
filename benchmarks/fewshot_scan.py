"""How much memory does the scan of a hundred thousand images take, and how long?

    PAUCA_DATA=data python benchmarks/fewshot_scan.py [--images 100000] [--large 16]

Real images, written to a zip archive first: all 60,000 of CIFAR-100 (32 pixels), those of Tiny-ImageNet (64 pixels) in
their eight turns and mirror images, which are neither duplicates nor crops of one another, and mirror images of
CIFAR-100. Then one scan in a process of its own, as the command line starts it. `--large` photographs of 12 megapixels
(Tiny-ImageNet's, enlarged) are scanned in another one: what a folder of large photographs adds while it is decoded.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from zipfile import ZipFile

from PIL import Image

import fewshot_features
from pauca.runs import Progress, processor_name

PROGRAM = """
import sys, time
import pauca.cli
from pauca.fewshot import commands, scan_images
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
begun, started = peak(), time.process_time()
report = scan_images(sys.argv[1])
seconds = time.process_time() - started
pairs = map(len, (report.exact_duplicates, report.near_duplicates, report.crops))
print("|", *(f"{figure:.0f} |" for figure in (report.images, begun, peak(), seconds, *pairs)))
"""
TURNS = (None, *Image.Transpose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=16, help="photographs of 12 megapixels")
    options = parser.parse_args()
    print(f"{processor_name()}\n")
    print(
        "| images | MB of imports | MB at most | s of a core | exact | near | crops |\n" + "|---" * 7 + "|", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        for count, images, kind in ((options.images, small(), "PNG"), (options.large, large(), "JPEG")):
            path = Path(folder) / f"{kind}.zip"
            with ZipFile(path, "w") as archive, Progress("write", count, "images") as progress:
                for number, (name, image) in enumerate(islice(images, count)):
                    buffer = BytesIO()
                    image.save(buffer, kind)
                    archive.writestr(f"{name}/{number}.{kind.lower()}", buffer.getvalue())
                    progress.advance()
            subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True)


def small() -> Iterator[tuple[str, Image.Image]]:
    """Images and the names of their classes."""
    folder = fewshot_features._folder() / "cifar100"
    sys.path.insert(0, str(folder))
    import unpack  # type: ignore[import-not-found]

    cifar = unpack.load(folder)[1]
    for number, of_class in enumerate(cifar):
        yield from ((f"cifar-{number}", Image.fromarray(pixels)) for pixels in of_class)
    for turn in TURNS:
        yield from ((name, image if turn is None else image.transpose(turn)) for name, image in tiny())
    for number, of_class in enumerate(cifar):
        yield from ((f"cifar-{number}", Image.fromarray(pixels[:, ::-1].copy())) for pixels in of_class)


def large() -> Iterator[tuple[str, Image.Image]]:
    """Photographs of 4000 x 3000 pixels."""
    return ((name, image.resize((4000, 3000), Image.Resampling.BICUBIC)) for name, image in tiny())


def tiny() -> Iterator[tuple[str, Image.Image]]:
    """Tiny-ImageNet's images, class by class."""
    with ZipFile(fewshot_features._folder() / "tiny-imagenet-200-first20.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.lower().endswith(".jpeg"):
                yield name.split("/")[-1].split("_")[0], Image.open(BytesIO(archive.read(name))).convert("RGB")


if __name__ == "__main__":
    main()
