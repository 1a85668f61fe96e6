"""A trajectory as a ROS 2 bag in MCAP: what `ros2 bag play` and Foxglove read, written without ROS."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float

from pauca.errors import InputError
from pauca.events.trajectory import Trajectory
from pauca.runs import atomic_write

IMU_TOPIC, TWIST_TOPIC = "/pauca/imu", "/pauca/twist"
FRAME = "camera"  # x right, y down, z forward: what ROS calls an optical frame
_IMU, _TWIST = "sensor_msgs/msg/Imu", "geometry_msgs/msg/TwistWithCovarianceStamped"
_UNKNOWN = -1.0  # first number of a covariance: the message says that this quantity is not measured
_LATEST_S = 1 << 31  # seconds that ROS 2 can tell


def write_mcap(path: Path, trajectory: Trajectory, force: bool = False) -> None:
    """Write the trusted velocities of a rotation, each as a sensor_msgs/Imu (with the orientation since the first one)
    and as a geometry_msgs/TwistWithCovarianceStamped.

    Raises:
        InputError: `path` exists and `force` is not set, or a time that ROS cannot tell.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer  # here: half a second that other formats need not wait
    from rosbags.typesys import Stores, get_typestore

    seconds = trajectory.t_us[[0, -1]] // 1_000_000
    if seconds[0] < 0 or seconds[1] >= _LATEST_S:
        raise InputError(
            f"{path}: times of {seconds[0]} to {seconds[1]} s cannot be told in ROS 2 (0 to {_LATEST_S} s)"
        )
    store = get_typestore(Stores.ROS2_HUMBLE)
    messages = _Messages(store.types)
    with atomic_write(path, force) as temporary, TemporaryDirectory(dir=temporary.parent, prefix=".bag-") as folder:
        bag = Path(folder) / "bag"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            imu = writer.add_connection(IMU_TOPIC, _IMU, typestore=store)
            twist = writer.add_connection(TWIST_TOPIC, _TWIST, typestore=store)
            orientation = trajectory.orientation()
            for i in np.flatnonzero(trajectory.trusted).tolist():
                t_us, velocity = int(trajectory.t_us[i]), trajectory.velocity[i]
                covariance = _finite(trajectory.covariance[i])
                told = messages.imu(t_us, orientation[i], velocity, covariance)
                writer.write(imu, t_us * 1000, store.serialize_cdr(told, _IMU))
                told = messages.twist(t_us, velocity, covariance)
                writer.write(twist, t_us * 1000, store.serialize_cdr(told, _TWIST))
        (found,) = bag.glob("*.mcap")
        found.replace(temporary)


class _Messages:
    """ROS's messages, from their types."""

    def __init__(self, types: Any) -> None:
        self._types = types

    def imu(
        self,
        t_us: int,
        orientation: Float[np.ndarray, "4"],
        velocity: Float[np.ndarray, "3"],
        covariance: Float[np.ndarray, "3 3"],
    ) -> Any:
        """Angular velocity with its covariance, and the integrated orientation, whose error is not known."""
        unknown = np.array([_UNKNOWN, *[0.0] * 8])
        return self._types[_IMU](
            header=self._header(t_us),
            orientation=self._make("geometry_msgs/msg/Quaternion", orientation),
            orientation_covariance=np.zeros(9),  # all zeros: there is one, its covariance is unknown
            angular_velocity=self._vector(velocity),
            angular_velocity_covariance=covariance.ravel(),
            linear_acceleration=self._vector(np.zeros(3)),
            linear_acceleration_covariance=unknown,
        )

    def twist(self, t_us: int, velocity: Float[np.ndarray, "3"], covariance: Float[np.ndarray, "3 3"]) -> Any:
        """Linear velocity zero, as the model has it; its covariance says that it is unknown."""
        whole = np.zeros((6, 6))
        whole[0, 0], whole[3:, 3:] = _UNKNOWN, covariance
        make = self._types
        twist = make["geometry_msgs/msg/Twist"](linear=self._vector(np.zeros(3)), angular=self._vector(velocity))
        with_covariance = make["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=whole.ravel())
        return make[_TWIST](header=self._header(t_us), twist=with_covariance)

    def _header(self, t_us: int) -> Any:
        stamp = self._types["builtin_interfaces/msg/Time"](sec=t_us // 1_000_000, nanosec=t_us % 1_000_000 * 1000)
        return self._types["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME)

    def _vector(self, values: Float[np.ndarray, "3"]) -> Any:
        return self._make("geometry_msgs/msg/Vector3", values)

    def _make(self, kind: str, values: Float[np.ndarray, "n"]) -> Any:
        return self._types[kind](**dict(zip("xyzw", values.tolist(), strict=False)))


def _finite(covariance: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    return covariance if np.isfinite(covariance).all() else np.diag([_UNKNOWN, 0.0, 0.0])
