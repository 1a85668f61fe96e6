"""Trajectories for other programs: TUM's text, a ROS 2 bag (MCAP), and a recording for the Rerun viewer."""

from pauca.events.exports.files import export
from pauca.events.exports.viewer import Viewer

__all__ = ["Viewer", "export"]
