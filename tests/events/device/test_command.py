"""`pauca events align --device cuda`: what `--workers 1` gives, from packets of a device; torch stands in for it."""

import numpy as np
import pytest
import torch

from pauca import cli, events
from pauca.events import pieces
from pauca.events.device import align as device_align


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A fifth of a second of a simulated small camera, written as NPZ."""
    camera = events.Camera((120, 90), 100.0, 100.0, 60.0, 45.0)
    config = events.SimulateConfig(duration_s=0.2, peak_deg_s=200.0, seed=3)
    path = tmp_path_factory.mktemp("recordings") / "turn.npz"
    events.write(path, events.simulate(config, camera=camera))
    return path


@pytest.mark.parametrize("options", [[], ["--estimator", "packets"]], ids=["trajectory", "packets"])
def test_results_are_those_of_workers(recording, tmp_path, monkeypatch, capsys, options):
    for module in (device_align, pieces):
        monkeypatch.setattr(module, "resolve_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(pieces, "PIECE_EVENTS", 20_000)
    found = {}
    for name, words in {"gpu": ["--device", "cuda"], "cpu": ["--workers", "1"]}.items():
        words = ["events", "align", str(recording), "--images", "1", "--out", str(tmp_path / name), *words, *options]
        assert cli.main(words) == 0
        found[name] = events.Trajectory.from_npz(tmp_path / name / "trajectory.npz")
    assert "million events/s" in capsys.readouterr().out
    ours, theirs = found["gpu"], found["cpu"]
    assert ours.status == theirs.status
    np.testing.assert_allclose(ours.t_us, theirs.t_us, atol=100)
    deviation = np.sqrt(np.diagonal(theirs.covariance, axis1=1, axis2=2))
    assert np.all(np.abs(ours.velocity - theirs.velocity) < 0.5 * deviation + 0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line_before_anything_is_written(recording, tmp_path, capsys):
    words = ["events", "align", str(recording), "--out", str(tmp_path / "out"), "--device", "cuda"]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "sees no CUDA GPU here" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
