"""Encoders of recordings, one format a file: each takes events chunk by chunk and is whole when it is closed."""

from pauca.events.io.encoders.hdf5 import Hdf5Encoder
from pauca.events.io.encoders.npz import NpzEncoder
from pauca.events.io.encoders.prophesee import DatEncoder, RawEncoder
from pauca.events.io.encoders.text import TextEncoder

__all__ = ["DatEncoder", "Hdf5Encoder", "NpzEncoder", "RawEncoder", "TextEncoder"]
