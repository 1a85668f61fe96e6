"""The verbs as a user types them."""

import csv
import json

import numpy as np
import pytest

from pauca import cli, events


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Half a second of a simulated small camera, written as NPZ."""
    camera = events.Camera((120, 90), 100.0, 100.0, 60.0, 45.0)
    config = events.SimulateConfig(duration_s=0.3, peak_deg_s=200.0, seed=3)
    path = tmp_path_factory.mktemp("recordings") / "turn.npz"
    events.write(path, events.simulate(config, camera=camera))
    return path


def test_align_writes_what_it_promises(recording, tmp_path, capsys):
    assert cli.main(["events", "align", str(recording), "--out", str(tmp_path / "out"), "--images", "2"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name for name in names if not name.startswith("aligned")] == [
        "made_from.json",
        "trajectory.csv",
        "trajectory.npz",
        "velocity.png",
    ]
    assert len([name for name in names if name.startswith("aligned")]) == 2
    with (tmp_path / "out" / "trajectory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["t_s", "wx_rad_s", "wy_rad_s", "wz_rad_s"]
    summary = capsys.readouterr().out
    assert f"{len(rows)} knots (" in summary
    for status in events.Status:
        assert f"{sum(row['status'] == status for row in rows)} {status}" in summary
    assert {"ax_rad_s2", "cov_xx", "status"} <= set(rows[0])
    assert "times real time" in summary


@pytest.mark.parametrize("name", ["trajectory.csv", "trajectory.npz"])
def test_the_velocity_in_the_files_is_the_camera_s(recording, tmp_path, capsys, name):
    words = ["--out", str(tmp_path), "--images", "0", "--quiet"]
    assert cli.main(["events", "align", str(recording), *words]) == 0
    assert cli.main(["events", "evaluate", str(tmp_path / name), str(recording), "--json"]) == 0
    # The sensor has a quarter of a DAVIS's pixels; a wrong sign, axis or clock would cost over 100 deg/s.
    assert json.loads(capsys.readouterr().out)["rms_deg_s"] < 10.0
    assert cli.main(["events", "evaluate", str(tmp_path / name), str(recording), "--axes", "z -x -y"]) == 0
    assert float(capsys.readouterr().out.split("RMS ")[1].split()[0]) > 50.0


def test_evaluate_says_what_it_cannot_compare(recording, tmp_path, capsys):
    assert cli.main(["events", "evaluate", str(recording), str(recording)]) == 2
    assert "cannot be read as a trajectory" in capsys.readouterr().err


def test_evaluate_takes_an_offset_or_finds_it_and_draws_the_error(recording, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--images", "0", "--quiet"]
    assert cli.main(["events", "align", str(recording), *words]) == 0
    evaluate = ["events", "evaluate", str(tmp_path / "trajectory.csv"), str(recording), "--json"]
    assert cli.main([*evaluate, "--offset-s", "-0.004", "--plot", str(tmp_path / "error.png")]) == 0
    shifted = json.loads(capsys.readouterr().out)
    assert shifted["truth_offset_s"] == -0.004
    assert (tmp_path / "error.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*evaluate, "--fit-offset"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["median_deg_s"] < shifted["median_deg_s"]
    assert fitted["offset_range_s"][0] <= fitted["truth_offset_s"] <= fitted["offset_range_s"][1]
    assert cli.main([*evaluate[:-1], "--fit-offset"]) == 0
    assert "explain the estimates as well" in capsys.readouterr().out
    for wrong in (["--fit-offset", "--offset-s", "0"], ["--plot", str(tmp_path / "error.txt")]):
        assert cli.main([*evaluate, *wrong]) == 2
    assert cli.main([*evaluate, "--plot", str(tmp_path / "error.png")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_truth_at_rest_has_no_percentage(recording, tmp_path, capsys):
    assert cli.main(["events", "align", str(recording), "--out", str(tmp_path), "--images", "0", "--quiet"]) == 0
    truth = events.read(recording).ground_truth
    rows = np.column_stack([truth.t_s, np.zeros((len(truth.t_s), 3))])
    names = "t_s,wx_rad_s,wy_rad_s,wz_rad_s"
    np.savetxt(tmp_path / "still.csv", rows, fmt="%.9f", delimiter=",", header=names, comments="")
    evaluate = ["events", "evaluate", str(tmp_path / "trajectory.csv"), str(tmp_path / "still.csv")]
    capsys.readouterr()
    assert cli.main([*evaluate, "--json"]) == 0
    printed = capsys.readouterr().out
    assert '"percent": null' in printed
    assert "Infinity" not in printed
    assert cli.main(evaluate) == 0
    assert "deg/s (the truth is at rest), median" in capsys.readouterr().out


def test_axes_that_begin_with_a_minus_are_taken_as_documented(recording, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--images", "0", "--quiet"]
    assert cli.main(["events", "align", str(recording), *words]) == 0
    for axes in ("-x y z", "x y z"):  # the first one mirrors
        assert cli.main(["events", "evaluate", str(tmp_path / "trajectory.csv"), str(recording), f"--axes={axes}"]) == 0
    told = capsys.readouterr()
    assert told.err == "axes '-x y z' mirror, which no mounting of a gyroscope does: is a sign wrong?\n"
    mirrored, right = (float(line.split("RMS ")[1].split()[0]) for line in told.out.splitlines()[1::3])
    assert mirrored > 5 * right


def test_force_leaves_no_image_of_the_earlier_run(recording, tmp_path):
    words = ["events", "align", str(recording), "--out", str(tmp_path), "--quiet", "--force"]
    assert cli.main([*words, "--images", "3"]) == 0
    assert cli.main([*words, "--images", "1"]) == 0
    assert len(list(tmp_path.glob("aligned_*.png"))) == 1


def test_hot_pixels_are_left_out_and_counted(recording, tmp_path, capsys):
    loaded = events.read(recording)
    hot = {"x": loaded.events.x.copy(), "y": loaded.events.y.copy()}
    hot["x"][::20], hot["y"][::20] = 7, 9
    spoilt = events.Events(loaded.events.t_us, hot["x"], hot["y"], loaded.events.p, loaded.events.size)
    events.write(tmp_path / "hot.npz", events.Recording(spoilt, loaded.camera))
    words = ["events", "align", str(tmp_path / "hot.npz"), "--images", "0", "--force", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert "events of 1 hot pixel" in capsys.readouterr().out
    assert cli.main([*words, "--no-remove-hot-pixels"]) == 0
    assert "hot pixel" not in capsys.readouterr().out


def test_the_guide_s_hot_pixels_are_found(tmp_path, capsys):
    """docs/events/use.md: five hot pixels before a photograph; four of them were missed."""
    import matplotlib

    photograph = f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg"
    words = ["--image", photograph, "--noise-hz", "2", "--hot-pixels", "5", "--duration-s", "0.6"]
    assert cli.main(["events", "simulate", str(tmp_path / "office.npz"), *words]) == 0
    assert cli.main(["events", "info", str(tmp_path / "office.npz"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out.split("\n", 1)[1])["hot_pixels"]) == 5


def test_where_packets_end_can_be_said(recording, tmp_path):
    words = ["events", "align", str(recording), "--images", "0", "--quiet", "--force", "--out", str(tmp_path)]
    cutting = [
        "--estimator",
        "packets",
        "--packet-s",
        "0.05",
        "--longest-s",
        "0.05",
        "--min-events",
        "1",
        "--packet-events",
        "1000000",
    ]
    assert cli.main([*words, *cutting, "--least-pixels", "0", "--most-pixels", "1000", "--border", "20"]) == 0
    found = events.Trajectory.from_csv(tmp_path / "trajectory.csv")
    np.testing.assert_allclose(found.end_us - found.start_us, 50_000, atol=2_000)
    assert cli.main([*words, "--packet-s", "0.5"]) == 2  # longer than the longest


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["packets", "trajectory"])
def test_packets_and_knots_by_name(recording, tmp_path, capsys, estimator):
    words = ["events", "align", str(recording), "--images", "0", "--out", str(tmp_path), "--estimator", estimator]
    assert cli.main(words) == 0
    assert f" {'knots' if estimator == 'trajectory' else 'packets'} (" in capsys.readouterr().out
    assert cli.main(["events", "evaluate", str(tmp_path / "trajectory.npz"), str(recording), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rms_deg_s"] < 10.0


def test_results_are_not_overwritten_without_force(recording, tmp_path, capsys):
    words = ["events", "align", str(recording), "--out", str(tmp_path), "--images", "0", "--quiet"]
    assert cli.main(words) == 0
    before = (tmp_path / "trajectory.csv").stat().st_mtime_ns
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "trajectory.csv").stat().st_mtime_ns == before
    assert cli.main([*words, "--force"]) == 0


def test_an_unfit_calibration_in_a_recording_does_not_stand_in_the_way_of_a_given_one(recording, tmp_path, capsys):
    with np.load(recording) as archive:
        np.savez(tmp_path / "turn.npz", **dict(archive) | {"K": [0.83, 1.1, 0.5, 0.5]})
    words = ["events", "align", str(tmp_path / "turn.npz"), "--images", "0", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "turn.npz: the calibration in it is unfit (camera: fx 0.83, fy 1.1 are no pixels" in told
    assert "add --camera FILE" in told
    calib = tmp_path / "calib.txt"
    calib.write_text("100 100 60 45 0 0 0 0 0")
    assert cli.main([*words, "--camera", str(calib)]) == 0


def test_where_most_is_disputed_the_likely_mistakes_are_told(recording, tmp_path, capsys):
    calib = tmp_path / "calib.txt"
    words = ["events", "align", str(recording), "--images", "0", "--force", "--out", str(tmp_path / "out")]
    for numbers, told in (("100 100 60 45 0 0 0 0 0", False), ("100 300 60 45 0 0 0 0 0", True)):
        calib.write_text(numbers)
        assert cli.main([*words, "--camera", str(calib)]) == 0
        assert ("most are disputed" in capsys.readouterr().out) == told


def test_a_missing_camera_is_asked_for_before_any_result(tmp_path, capsys):
    text = tmp_path / "events.txt"
    text.write_text("".join(f"{i * 1e-5:.6f} {i % 240} {i % 180} {i % 2}\n" for i in range(1000)))
    assert cli.main(["events", "align", str(text), "--out", str(tmp_path / "out"), "--size", "240", "180"]) == 2
    assert "add --camera FILE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--packet-events", "0"], "packet_events 0 must be at least 1"),
        (["--images", "-1"], "--images must not be negative"),
        (["--camera", "nowhere.txt"], r"nowhere.txt"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(recording, tmp_path, capsys, options, message):
    assert cli.main(["events", "align", str(recording), "--out", str(tmp_path / "out"), "--quiet", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_paper_s_preset_and_other_choices_reach_the_library(recording, tmp_path):
    words = ["--preset", "paper", "--packet-events", "9000", "--objective", "contrast", "--images", "0", "--quiet"]
    assert cli.main(["events", "align", str(recording), "--out", str(tmp_path), *words]) == 0
    trajectory = events.Trajectory.from_npz(tmp_path / "trajectory.npz")
    assert set(trajectory.n_events.tolist()[:-1]) == {9000}  # the last one holds what is left


def test_translation_writes_its_own_columns(recording, tmp_path):
    words = ["--motion", "translation", "--images", "0", "--quiet", "--out", str(tmp_path)]
    assert cli.main(["events", "align", str(recording), *words]) == 0
    assert (tmp_path / "trajectory.csv").read_text().startswith("t_s,vx_1_s,vy_1_s,")


def test_info_as_text_and_json(recording, capsys):
    assert cli.main(["events", "info", str(recording)]) == 0
    assert "120 x 90 pixels" in capsys.readouterr().out
    assert cli.main(["events", "info", str(recording), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == [120, 90]


def test_a_size_without_a_calibration_is_a_camera_without_distortion(tmp_path):
    words = ["--size", "64", "48", "--duration-s", "0.05", "--movement", "constant", "--axis", "0", "0", "1"]
    assert cli.main(["events", "simulate", str(tmp_path / "a.npz"), *words]) == 0
    recording = events.read(tmp_path / "a.npz")
    assert recording.camera == events.Camera.pinhole((64, 48))
    assert not recording.ground_truth.omega_rad_s[:, :2].any()


def test_undistorted_simulations_are_read_back_as_they_were_written(tmp_path):
    assert cli.main(["events", "simulate", str(tmp_path / "a.npz"), "--duration-s", "0.05", "--undistorted"]) == 0
    assert events.read(tmp_path / "a.npz").events.undistorted


def test_two_ways_to_say_how_the_camera_turns_are_refused(recording, tmp_path, capsys):
    words = ["--motion", str(recording), "--movement", "rest"]
    assert cli.main(["events", "simulate", str(tmp_path / "a.npz"), *words]) == 2
    assert "choose one" in capsys.readouterr().err


def test_simulate_follows_a_given_motion(tmp_path, capsys):
    motion = tmp_path / "motion.csv"
    motion.write_text("t_s,wx_rad_s,wy_rad_s,wz_rad_s\n0,0,1,0\n0.05,0,2,0\n")
    out = tmp_path / "turn.h5"
    assert cli.main(["events", "simulate", str(out), "--motion", str(motion), "--scene", "shapes"]) == 0
    assert "with ground truth" in capsys.readouterr().out
    truth = events.read(out).ground_truth
    np.testing.assert_allclose(truth.omega_rad_s[[0, -1], 1], [1, 2], atol=1e-6)
    assert cli.main(["events", "simulate", str(out), "--quiet"]) == 2


def test_a_motion_file_without_its_columns_is_named(tmp_path, capsys):
    motion = tmp_path / "motion.csv"
    motion.write_text("t,x\n0,1\n")
    assert cli.main(["events", "simulate", str(tmp_path / "a.npz"), "--motion", str(motion)]) == 2
    assert "motion.csv: " in capsys.readouterr().err
