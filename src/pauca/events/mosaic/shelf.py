"""Arrays that are needed now and then, kept in a temporary file: memory does not grow with their number."""

from dataclasses import dataclass
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Shelved:
    """Rays that lie on a shelf."""

    shelf: "Shelf"
    start: int  # byte of the file
    count: int

    def take(self) -> Float[np.ndarray, "n 3"]:
        """Read them."""
        self.shelf.file.seek(self.start)
        return np.fromfile(self.shelf.file, np.float32, 3 * self.count).reshape(-1, 3)


class Shelf:
    """A temporary file of rays, which goes when the `with` block ends."""

    def __enter__(self) -> "Shelf":
        self.file = TemporaryFile(prefix="pauca-")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def put(self, rays: Float[np.ndarray, "n 3"]) -> Shelved:
        """Keep rays, as float32."""
        start = self.file.seek(0, 2)
        self.file.write(np.ascontiguousarray(rays, np.float32).data)
        return Shelved(self, start, len(rays))
