"""One recording over several processes: in pieces that do not depend on how many processes there are."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice

from pauca.errors import DeviceError
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.gyro_prior import GyroPrior
from pauca.events.lending import map_lent, taken
from pauca.events.settings import AlignConfig
from pauca.events.shared import SharedEvents
from pauca.events.types import Alignment, Device, Events
from pauca.events.windows import joined
from pauca.events.workers import Workers
from pauca.runs import resolve_device

PIECE_EVENTS = 3_000_000
"""Events of a piece: 42 MB, about four seconds of one core."""

_WARM_PACKETS = 4  # before a piece, aligned for what they tell about its beginning: 4 % more work


@dataclass(frozen=True, eq=False)
class _Piece:
    camera: Camera
    config: AlignConfig
    prior: GyroPrior | None
    before: Events | None  # the last events before it
    events: Events | SharedEvents


def align_in_pieces(
    chunks: Iterable[Events], aligner: Aligner, workers: Workers, done: int = 0
) -> Iterator[list[Alignment]]:
    """The packets of one piece of `PIECE_EVENTS` events after the other; every event is in one packet.

    A piece begins with what the last four packets before it tell, and a packet ends where it ends. Where they are
    depends on the events alone, so results are the same, bit for bit, for any number of workers. `Aligner.follow` gives
    other packets near the seams.

    With `AlignConfig.device` cuda, images of many pieces at a time are made on a GPU. Results then repeat bit for bit,
    too, and are those of the CPU but for rounding.

    Args:
        chunks: the events in order.
        aligner: its camera, settings and prior are taken; hot pixels and noise are the caller's.
        workers: who does the work.
        done: so many events, whole pieces, are known already.

    Raises:
        DeviceError: a GPU is asked for, and there is none.
        InputError: the aligner's gyroscope was read at another time.
    """
    camera, config = aligner.camera, aligner.config
    warm = _WARM_PACKETS * config.cut(camera.size).most
    known = -(-done // PIECE_EVENTS)
    read = chunks if aligner.prior is None else aligner.prior.within(chunks)
    pieces = islice(pieces_in_parts(read, PIECE_EVENTS, warm), known, None)
    if config.device != "cpu":
        check_device(config.device)
        from pauca.events.device.align import align_on_device  # here, because it needs torch

        yield from align_on_device(pieces, aligner, workers, PIECE_EVENTS + warm, config.device)
        return

    def with_(before: list[Events]) -> Callable[[Events | SharedEvents], _Piece]:
        return lambda events: _Piece(camera, config, aligner.prior, joined(before) if before else None, events)

    yield from map_lent(workers, _aligned, ((parts, with_(before)) for before, parts in pieces))


def check_device(device: Device) -> None:
    """Say whether images can be made there.

    Raises:
        DeviceError: there is no GPU, or no package to use it.
    """
    if device == "cpu":
        return
    if lacking := [name for name in ("torch", "triton", "greenlet") if find_spec(name) is None]:
        raise DeviceError(f"device {device} needs {' and '.join(lacking)}: pip install 'pauca[cuda]'")
    resolve_device(device)


def pieces_in_parts(chunks: Iterable[Events], size: int, warm: int) -> Iterator[tuple[list[Events], list[Events]]]:
    """Pieces of exactly so many events, but for the last, each with some of the events before it: as views of the
    chunks that hold them, which are not copied."""
    parts: list[Events] = []
    before: list[Events] = []
    held = 0
    for chunk in chunks:
        while held + len(chunk) >= size:
            parts.append(chunk[: size - held])
            chunk, held = chunk[size - held :], 0
            yield before, parts
            before, parts = _last_of(parts, warm), []
        if len(chunk):
            parts.append(chunk)
            held += len(chunk)
    if held:
        yield before, parts


def _last_of(parts: list[Events], count: int) -> list[Events]:
    """The last so many events."""
    found: list[Events] = []
    for part in reversed(parts):
        if count <= 0:
            break
        found.insert(0, part[max(0, len(part) - count) :])
        count -= len(part)
    return found


def _aligned(piece: _Piece) -> list[Alignment]:
    aligner = Aligner(piece.camera, piece.config, piece.prior)
    if piece.before is not None:
        for _ in aligner.follow(piece.before, whole=False):
            pass
    return list(aligner.follow(taken(piece.events), whole=False))
