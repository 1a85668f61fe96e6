"""One way for a picture to the disk."""

import pytest
from matplotlib.figure import Figure

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.runs import check_picture, save_figure
from pauca.runs.pictures import png_of

STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".SVG": b"<?xml"}


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    return figure


@pytest.mark.parametrize("suffix", STARTS)
def test_format_is_that_of_the_name(figure, tmp_path, suffix):
    path = tmp_path / "new" / f"curve{suffix}"
    save_figure(figure, path)
    assert path.read_bytes().startswith(STARTS[suffix])
    assert [*path.parent.iterdir()] == [path]


def test_a_picture_in_a_report_is_the_one_on_the_disk(figure, tmp_path):
    save_figure(figure, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes() == png_of(figure)


def test_an_earlier_picture_is_replaced_only_with_force(figure, tmp_path):
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")
    for refuse in (lambda: save_figure(figure, path), lambda: check_picture(path)):
        with pytest.raises(InputError, match=r"exists already.*--force"):
            refuse()
        assert path.read_bytes() == b"old"
    save_figure(figure, path, force=True)
    assert path.read_bytes() != b"old"


def test_other_formats_are_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match=r"curve\.txt: pictures are written as"):
        check_picture(tmp_path / "curve.txt")


def test_a_figure_that_cannot_be_drawn_leaves_what_was_there(tmp_path):
    class Broken(Figure):
        def savefig(self, *arguments, **named):
            raise OSError("no space left on device")

    (tmp_path / "curve.png").write_bytes(b"old")
    with pytest.raises(PaucaError, match="nothing was replaced"):
        save_figure(Broken(), tmp_path / "curve.png", force=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_name_in_another_script_is_no_warning(figure, tmp_path, recwarn):
    figure.axes[0].set_title("\u72ac, \u0642\u0637")
    save_figure(figure, tmp_path / "names.png")
    assert not recwarn.list
