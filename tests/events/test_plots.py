import numpy as np
import pytest

from pauca.events import Evaluation, GroundTruth, Status, Trajectory, plots


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
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in panels[1].lines if line.get_label()[0] != "_"}
    assert set(lines) == {"truth", "estimate", "stalled", "degenerate"}
    np.testing.assert_allclose(lines["estimate"], [1.0, np.nan, np.nan])
    assert len(lines["stalled"]) == 1
    assert len(lines["degenerate"]) == 1


@pytest.mark.parametrize("status", [Status.DEGENERATE, Status.STALLED])
def test_a_velocity_that_is_not_trusted_does_not_stretch_the_axis(status):
    trajectory = _trajectory([Status.CONVERGED, status, Status.CONVERGED])
    trajectory.velocity[1] = np.radians(30_000.0)
    assert max(plots.velocity_figure(trajectory).axes[0].get_ylim()) < 100


@pytest.mark.parametrize(
    ("statuses", "bars"),
    [
        ([Status.CONVERGED], 1),
        ([Status.CONVERGED, Status.DEGENERATE, Status.CONVERGED], 2),
        ([Status.CONVERGED, Status.CONVERGED], 0),
    ],
)
def test_a_packet_that_stands_alone_shows_its_uncertainty(statuses, bars):
    """A band between packets is as wide as nothing where there is one packet."""
    panel = plots.velocity_figure(_trajectory(statuses)).axes[0]
    found = [segment for lines in panel.containers for segment in lines.lines[2][0].get_segments()]
    assert len(found) == bars
    if bars:
        assert np.ptp(found[0][:, 1]) == pytest.approx(np.degrees(4 * 0.01))  # two standard deviations to each side


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


def test_the_empty_border_is_not_drawn():
    before, after = np.zeros((2, 2, 100, 120))
    before[0, 40, 30], after[1, 50, 60] = 1.0, 1.0
    shapes = {panel.images[0].get_array().shape for panel in plots.warped_figure(before, after).axes}
    assert shapes == {(4 + 11 + 4, 4 + 31 + 4, 3)}


def test_errors_are_drawn_with_their_rms():
    error = np.array([[3.0, 0.0, -4.0], [-3.0, 0.0, -4.0]])
    t_s = np.array([1.0, 1.01])
    figure = plots.error_figure(Evaluation(t_s, error, np.zeros((2, 3)), 5.0, 3.0, (3.0, 0.0, 4.0), 1.0, 0), "turn")
    panel = figure.axes[2]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [-4.0, -4.0])
    assert panel.get_legend().get_texts()[0].get_text() == "RMS 4.00 deg/s"


def test_an_empty_packet_can_be_drawn():
    empty = np.zeros((2, 4, 6))
    assert len(plots.warped_figure(empty, empty).axes) == 2
