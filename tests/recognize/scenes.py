"""Small recordings for tests: characters on a wall, before a camera that is shaken."""

from functools import cache

import numpy as np

from pauca import events, fewshot

CAMERA = events.Camera.pinhole((34, 34))
CLASSES = 4
_CHARACTERS = (0, 3, 9, 11)  # a crossed circle, K, 3 and an arrow


@cache
def recording(label: int, number: int, peak_deg_s: float = 120.0, with_camera: bool = False) -> events.Recording:
    """Recording `number` of character `label`; each has its own drawing and motion."""
    images = fewshot.draw_glyphs("test", per_class=8, size=48, classes=12, seed=1)
    image = images.images[_CHARACTERS[label] * 8 + number, 0].numpy()
    config = events.SimulateConfig(duration_s=0.25, peak_deg_s=peak_deg_s, bandwidth_hz=6.0, seed=100 * label + number)
    made = events.simulate(config, camera=CAMERA, image=image)
    return events.Recording(made.events, CAMERA if with_camera else None, f"{label}-{number}")


def recordings(numbers: range, peak_deg_s: float = 120.0) -> tuple[list[events.Recording], np.ndarray]:
    """Recordings of every character, and their labels."""
    pairs = [(label, number) for label in range(CLASSES) for number in numbers]
    return [recording(*pair, peak_deg_s) for pair in pairs], np.array([f"thing {label}" for label, _ in pairs])
