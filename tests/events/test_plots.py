import numpy as np

from pauca.events import GroundTruth, Status, Trajectory, plots


def _trajectory(statuses: list[Status]) -> Trajectory:
    n = len(statuses)
    t_us = np.arange(n, dtype=np.int64) * 10_000
    return Trajectory(
        motion="rotation",
        t_us=t_us,
        velocity=np.radians(np.arange(3.0 * n).reshape(n, 3)),
        covariance=np.tile(np.eye(3) * 1e-4, (n, 1, 1)),
        start_us=t_us - 5_000,
        end_us=t_us + 5_000,
        n_events=np.full(n, 100),
        evaluations=np.full(n, 5),
        score=np.zeros(n),
        status=tuple(statuses),
    )


def test_velocity_is_drawn_in_degrees_with_the_untrusted_packets_left_out_and_marked():
    trajectory = _trajectory([Status.CONVERGED, Status.DEGENERATE, Status.STALLED])
    truth = GroundTruth(np.array([0.0, 0.02]), np.zeros((2, 3)))
    panels = plots.velocity_figure(trajectory, truth).axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in panels[1].lines}
    assert set(lines) == {"truth", "estimate", "stalled", "degenerate"}
    np.testing.assert_allclose(lines["estimate"], [1.0, np.nan, 7.0])
    np.testing.assert_allclose(lines["degenerate"], [4.0])


def test_infinite_uncertainty_does_not_stretch_the_axis():
    trajectory = _trajectory([Status.CONVERGED, Status.DEGENERATE])
    trajectory.covariance[1] = np.inf
    panel = plots.velocity_figure(trajectory).axes[0]
    assert np.all(np.isfinite(panel.get_ylim()))


def test_off_is_orange_and_on_is_blue():
    images = np.zeros((2, 1, 3))
    images[0, 0, 0], images[1, 0, 1] = 4.0, 4.0
    off, on, nothing = plots.polarity_image(images, full=4.0)[0]
    assert off[0] > off[2]
    assert on[2] > on[0]
    assert np.all(nothing == 1)


def test_an_empty_packet_can_be_drawn():
    empty = np.zeros((2, 4, 6))
    assert len(plots.warped_figure(empty, empty).axes) == 2
