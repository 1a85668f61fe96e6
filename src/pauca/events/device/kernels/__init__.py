"""Triton kernels of one operation each; `pauca.events.device.reference` says what each has to give."""

from pauca.events.device.kernels.gather import gather as gather
from pauca.events.device.kernels.image_pass import score_images as score_images
from pauca.events.device.kernels.parts import sums_over_parts as sums_over_parts
from pauca.events.device.kernels.vote import vote as vote
