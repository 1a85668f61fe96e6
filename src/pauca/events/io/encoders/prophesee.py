"""Prophesee's RAW (EVT3, EVT2) and DAT, which Metavision and OpenEB read."""

from pathlib import Path
from typing import Literal

import numpy as np

from pauca.errors import InputError
from pauca.events.io.encoders.base import About, left_behind, whole_pixels
from pauca.events.kernels.encode import WORDS_EVT2, WORDS_EVT3, encode_dat, encode_evt2, encode_evt3
from pauca.events.types import Events

RawEncoding = Literal["evt3", "evt2"]

_PERIOD_US = {"evt3": 1 << 24, "evt2": 1 << 34}  # after which the clock of the words runs over
_LOW_BITS = {"evt3": 12, "evt2": 6}
_MOST_PERIODS = 20_000  # that may pass before the first event, or between two; each takes two words


class RawEncoder:
    """Writes RAW. Times begin at most 20,000 periods of the format's clock (4 days of EVT3) after zero."""

    def __init__(self, path: Path, encoding: RawEncoding) -> None:
        self.notes: list[str] = []
        self._encoding, self._file = encoding, path.open("wb")
        self._period, self._shift_us, self._last = _PERIOD_US[encoding], 0, -1
        self._state = np.full(3, -1, np.int64)

    def write(self, events: Events) -> None:
        if len(events) == 0:
            return
        if self._last < 0:
            self._begin(events)
        t = events.t_us - self._shift_us
        # The clock runs over unnoticed in a long silence: what a camera writes then is the time alone.
        silent = np.diff(t, prepend=max(self._last, 0)) >= self._period // 4
        starts = np.unique(np.concatenate([[0], np.flatnonzero(silent)]))
        for start, end in zip(starts, [*starts[1:], len(t)], strict=True):
            if silent[start]:
                self._pass_time(int(t[start - 1]) if start else max(self._last, 0), int(t[start]))
            self._encode(t[start:end], events[start:end])
        self._last = int(t[-1])

    def _begin(self, events: Events) -> None:
        whole_pixels(events, 2048)
        (width, height), first = events.size, int(events.t_us[0])
        version = {"evt3": "3.0", "evt2": "2.0"}[self._encoding]
        form = f"{self._encoding.upper()};height={height};width={width}"
        header = f"% evt {version}\n% format {form}\n% geometry {width}x{height}\n% end\n"
        self._file.write(header.encode())
        if not 0 <= first < _MOST_PERIODS * self._period:
            self._shift_us = first - first % self._period
            self.notes.append(f"times begin anew: {self._shift_us:,} us were taken off, more than the format can hold")

    def _pass_time(self, last: int, until: int) -> None:
        """Words of time alone, from the last event to the next, so that a reader sees the clock run over."""
        if (until - last) // self._period > _MOST_PERIODS:
            raise InputError(
                f"a silence of {(until - last) / 1e6:,.0f} s, longer than {self._encoding.upper()} can "
                "tell; write .npz or .h5"
            )
        half, low, mask = self._period // 2, _LOW_BITS[self._encoding], (self._period >> _LOW_BITS[self._encoding]) - 1
        at = np.arange((last // half + 1) * half, until + 1, half)
        before = np.where(at % self._period == 0, at - 1, at)  # the clock's last tick before it runs over
        words = np.stack([before, at], axis=1).ravel() >> low & mask
        dtype, mark = ("<u2", 0x8000) if self._encoding == "evt3" else ("<u4", 0x80000000)
        self._file.write((words | mark).astype(dtype).tobytes())
        self._state[:] = -1

    def _encode(self, t: np.ndarray, events: Events) -> None:
        columns = (events.x, events.y, events.p)
        if self._encoding == "evt3":
            words = np.empty(WORDS_EVT3 * len(t), np.uint16)
            n = encode_evt3(t, *columns, self._state, words)
        else:
            words = np.empty(WORDS_EVT2 * len(t), np.uint32)
            n, self._state[0] = encode_evt2(t, *columns, self._state[0], words)
        self._file.write(words[:n].astype(words.dtype.newbyteorder("<"), copy=False).data)

    def finish(self, about: About) -> None:
        self.notes += left_behind(about)
        self.close()

    def close(self) -> None:
        self._file.close()


class DatEncoder:
    """Writes DAT of CD events, whose clock of 32 bits runs over after 71 minutes."""

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._file, self._last, self._shift_us = path.open("wb"), -1, 0

    def write(self, events: Events) -> None:
        if len(events) == 0:
            return
        if self._last < 0:
            self._begin(events)
        t = events.t_us - self._shift_us
        if (np.diff(t, prepend=max(self._last, 0)) >= 1 << 31).any():
            raise InputError("a silence of more than 35 minutes, which DAT cannot tell; write .h5")
        words = np.empty(2 * len(t), np.uint32)
        encode_dat(t, events.x, events.y, events.p, words)
        self._file.write(words.astype("<u4", copy=False).data)
        self._last = int(t[-1])

    def _begin(self, events: Events) -> None:
        whole_pixels(events, 1 << 14)
        (width, height), first = events.size, int(events.t_us[0])
        header = f"% Data file containing CD events.\n% Version 2\n% Height {height}\n% Width {width}\n"
        self._file.write(header.encode() + bytes([0x0C, 8]))
        if not 0 <= first < 1 << 31:
            self._shift_us = first
            self.notes.append(f"times begin at zero: {first:,} us were taken off, more than the format can hold")

    def finish(self, about: About) -> None:
        self.notes += left_behind(about)
        self.close()

    def close(self) -> None:
        self._file.close()
