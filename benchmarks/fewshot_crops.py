"""Crops of one another in a folder: how many the scan finds, and how many pairs it takes for crops that are none.

    PAUCA_DATA=data python benchmarks/fewshot_crops.py

A tenth of Tiny-ImageNet's images (64 pixels) is cut to 90 to 40 % of the side, as it is, scaled up to 64 pixels again,
or that and saved as JPEG of quality 60; each third is looked for among 2000 images. Then all 4002 images are looked
through for crops of one another, of which there are none.
"""

import argparse
import os
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pauca.fewshot.data.crops import find_crops
from pauca.fewshot.data.folder import ImageReader, list_images
from pauca.runs import describe_machine

CHANGES = ("as it is", "scaled up", "and saved as JPEG")


def cut(image: Image.Image, share: float, change: str, generator: np.random.Generator) -> Image.Image:
    """A crop from a random place."""
    side = round(share * image.width)
    left, top = generator.integers(image.width - side + 1, size=2).tolist()
    crop = image.crop((left, top, left + side, top + side))
    if change == CHANGES[0]:
        return crop
    crop = crop.resize(image.size, Image.Resampling.BICUBIC)
    if change == CHANGES[1]:
        return crop
    buffer = BytesIO()
    crop.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("L")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="to look among")
    parser.add_argument("--crops", type=int, default=200, help="of each kind")
    options = parser.parse_args()
    folder = Path(os.environ.get("PAUCA_DATA", Path(__file__).parents[2] / "shared" / "data"))
    files = list_images(folder / "fewshot" / "tiny-imagenet-200-first20.zip")
    with ImageReader(files) as reader:
        images = [Image.open(BytesIO(reader.read(file))).convert("L") for file in files]
    print(describe_machine(), "\n")
    start = time.process_time()
    print(f"{len(images)} images: {len(find_crops(images))} pairs taken for crops, ", end="")
    print(f"{1000 * (time.process_time() - start) / len(images):.1f} ms an image\n")
    few = images[:: max(1, len(images) // options.images)][: options.images]
    print("| side of the crop, % | " + " | ".join(CHANGES) + " | others |\n|---|---|---|---|---|")
    generator = np.random.default_rng(0)
    for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
        truth, crops = {}, []
        for change in CHANGES:
            for whole in range(options.crops):
                truth[whole, len(few) + len(crops)] = change
                crops.append(cut(few[whole], share, change, generator))
        pairs = find_crops(few + crops)
        # A crop may be a crop of another crop of the same image, which is true and not asked for.
        others = [(a, b) for a, b in pairs if a < len(few) and (a, b) not in truth]
        right = [sum(truth.get(pair) == change for pair in pairs) for change in CHANGES]
        cells = [f"{100 * count / options.crops:.0f}" for count in right]
        print(f"| {100 * share:.0f} | " + " | ".join(cells) + f" | {len(others)} |", flush=True)


if __name__ == "__main__":
    main()
