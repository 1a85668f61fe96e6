"""A live camera beside other work, in asyncio: events are pushed as they come, and velocities are awaited.

Aligning holds the processor for a few milliseconds, so it runs in a thread and the loop stays free; each thread has an
`Aligner` of its own. A simulated recording stands in for the camera. Run: python examples/events_live_asyncio.py
"""

import asyncio

import numpy as np

from pauca import events
from pauca.events import live

recording = events.simulate(events.SimulateConfig(scene="shapes", duration_s=0.5, seed=1))
assert recording.camera is not None


async def camera(windows: asyncio.Queue[events.Events | None]) -> None:
    """Puts a window of events into the queue every 5 ms, as a driver's callback would."""
    for window in live.replay([recording.events], window_s=0.005, speed=np.inf):
        await windows.put(window)
        await asyncio.sleep(0.005)
    await windows.put(None)


async def control(windows: asyncio.Queue[events.Events | None]) -> None:
    """Aligns what has come, 50 ms after a packet's first event at the latest, and says how the camera turns."""
    assert recording.camera is not None
    aligner = events.Aligner(recording.camera)
    while (window := await windows.get()) is not None:
        for alignment in await asyncio.to_thread(aligner.push, window, 0.05):
            if alignment.status.trusted:
                x, y, z = np.degrees(alignment.velocity)
                print(f"{alignment.t_us / 1e6:.3f} s  x {x:7.1f}  y {y:7.1f}  z {z:7.1f} deg/s")


async def main() -> None:
    windows: asyncio.Queue[events.Events | None] = asyncio.Queue(maxsize=20)
    await asyncio.gather(camera(windows), control(windows))


asyncio.run(main())
