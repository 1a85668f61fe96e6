"""A camera that runs: events in, velocities out within a deadline, and what was dropped is counted."""

from pauca.events.live.loop import LiveConfig, LiveReport, run
from pauca.events.live.sources import EVENT_DTYPE, open_source, receive, replay, send

__all__ = ["EVENT_DTYPE", "LiveConfig", "LiveReport", "open_source", "receive", "replay", "run", "send"]
