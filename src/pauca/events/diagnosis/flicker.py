"""Flicker: lamps and screens that brighten and darken many pixels at once, again and again."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pauca.events.diagnosis.fault import Fault
from pauca.events.diagnosis.rates import Rates

# Below, motion by hand swings as well.
_SLOWEST_HZ = 25.0
_WINDOW_S = 1.0
_STANDS_OUT = 30.0  # times the middle of the spectrum around; noise alone reaches 15 in the best of a thousand lines
_AROUND_HZ = 40.0
_LEAST_SHARE = 0.05  # of all events must be in step
_BEYOND_CHANCE = 40.0  # times the power of as many events at random times
_FASTEST = 0.9  # of the highest frequency that the bins show; above, read-out at every millisecond looks like flicker
_LEAST_PERIODS = 5


@dataclass(frozen=True, eq=False)
class Spectrum:
    """How much the balance of ON and OFF swings with each frequency."""

    hz: Float[np.ndarray, "n"]
    share: Float[np.ndarray, "n"]  # of the events that swing in step, 0 to 1


def spectrum_of(rates: Rates) -> Spectrum:
    """Amplitudes of ON minus OFF, averaged over windows of a second.

    Light that swings makes ON and OFF events by turns, everywhere at once; an edge that moves makes both at once.
    """
    counts, bin_s = rates.counts[:, :-1], rates.bin_us * 1e-6  # the last bin is not whole
    length = min(round(_WINDOW_S / bin_s), counts.shape[1])
    windows = counts.shape[1] // max(length, 1)
    if length * bin_s < _LEAST_PERIODS / 100 or windows == 0:
        return Spectrum(np.zeros(0), np.zeros(0))
    balance = (counts[1] - counts[0])[: windows * length].reshape(windows, length).astype(float)
    total = counts.sum(axis=0)[: windows * length].reshape(windows, length).sum(axis=1)
    taper = np.hanning(length)
    swings = np.abs(np.fft.rfft((balance - balance.mean(axis=1, keepdims=True)) * taper, axis=1)) / taper.mean()
    busy = total > 0
    power = (swings[busy] ** 2).sum(axis=0) / max(float((total[busy].astype(float) ** 2).sum()), 1.0)
    hz = np.fft.rfftfreq(length, bin_s)
    return Spectrum(hz, np.sqrt(power))


def flicker(spectrum: Spectrum, count: int) -> list[Fault]:
    """The strongest frequency that stands out, if one does, in a recording of so many events."""
    hz, power = spectrum.hz, spectrum.share**2
    if len(hz) < 2:
        return []
    step = hz[1]
    slowest = max(_SLOWEST_HZ, _LEAST_PERIODS * step)
    beside = max(3, round(_AROUND_HZ / step))
    best, best_ratio = -1, 0.0
    least = max(_LEAST_SHARE, np.sqrt(_BEYOND_CHANCE / count))
    for i in np.flatnonzero((hz >= slowest) & (hz <= _FASTEST * hz[-1]) & (spectrum.share >= least)):
        around = np.concatenate([power[max(1, i - beside) : max(1, i - 3)], power[i + 4 : i + 1 + beside]])
        ratio = power[i] / max(float(np.median(around)), 1e-12) if len(around) else 0.0
        if ratio > _STANDS_OUT and power[i] > (power[best] if best >= 0 else 0):
            best, best_ratio = int(i), ratio
    if best < 0:
        return []
    found_hz, share = _between(hz, power, best), float(spectrum.share[best])
    mains = next((mains for mains in (50, 60) if abs(found_hz - 2 * mains) < max(1.5, step)), None)
    source = (
        f"light on {mains} Hz mains" if mains else "a lamp or a screen that is dimmed by switching it, or a vibration"
    )
    return [
        Fault(
            "flicker",
            f"ON and OFF swing {found_hz:.1f} times a second, {100 * share:.0f} % of the events in step: {source}",
            "light the scene with daylight or a lamp on direct current, or filter this frequency in the camera (AFK, "
            "anti-flicker)",
            {"frequency_hz": round(found_hz, 2), "share_in_step": round(share, 4), "above_noise": round(best_ratio, 1)},
        )
    ]


def _between(hz: np.ndarray, power: np.ndarray, i: int) -> float:
    """A peak's place between the lines of the spectrum, by a parabola through the logarithms."""
    if not 0 < i < len(hz) - 1:
        return float(hz[i])
    left, top, right = np.log(np.maximum(power[i - 1 : i + 2], 1e-30))
    bend = left - 2 * top + right
    return float(hz[i] + (0.5 * (left - right) / bend if bend < 0 else 0.0) * hz[1])
