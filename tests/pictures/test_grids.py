"""Pictures are read back with Pillow: sizes, pixels, frames and durations; a file that can't be written leaves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench.files import FileError
from bench.pictures import grids, plots
from reference.config import ConfigError


def images(n, c=1, size=4):
    """Image k is flat, of value 20 k."""
    return (np.arange(n, dtype=np.uint8) * 20)[:, None, None, None] * np.ones((n, c, size, size), np.uint8)


def test_grid_places_images_row_by_row_with_white_between_and_black_for_missing_ones():
    assert grids.grid(images(3, size=1), 2, gap=1).tolist() == [[0, 255, 20], [255, 255, 255], [40, 255, 0]]


def test_grid_of_colour_keeps_the_channels_last():
    colour = np.stack([np.full((2, 2), v, np.uint8) for v in (1, 2, 3)])[None]
    assert grids.grid(colour, 1).tolist() == [[[1, 2, 3]] * 2] * 2


@pytest.mark.parametrize("bad", [images(2).astype(np.float32), images(2)[0], images(2, c=2), images(0)])
def test_grid_refuses_what_is_no_stack_of_uint8_images(bad):
    with pytest.raises(ConfigError, match="images=.*must be uint8 of shape"):
        grids.grid(bad, 2)


def test_save_grid_shows_every_image_at_its_place(tmp_path):
    path = grids.save_grid(tmp_path / "new" / "a.png", images(4), 2, title="four", rows=["first", "second"], heads=["a", "b"],
                              scale=10)
    picture = np.asarray(Image.open(path).convert("L"))
    for value in (20, 40, 60):  # flat areas of each image's own grey, of some 40 x 40 pixels
        assert 1200 < (picture == value).sum() < 2400
    assert (picture == 255).sum() > 1000 and list(tmp_path.rglob("*.part")) == []


def test_save_grid_wants_a_label_for_every_line_or_none(tmp_path):
    with pytest.raises(ConfigError, match="rows=1: must label each of 2 lines"):
        grids.save_grid(tmp_path / "a.png", images(4), 2, rows=["first"])
    with pytest.raises(ConfigError, match="heads=3: must label each of 2 columns"):
        grids.save_grid(tmp_path / "a.png", images(4), 2, heads=["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []


def test_gif_has_every_frame_in_order_loops_and_rests_on_the_last(tmp_path):
    frames = [np.full((3, 1, 4, 4), v, np.uint8) for v in (0, 100, 200)]
    path = grids.save_gif(tmp_path / "a.gif", frames, ["t = 9", "t = 5", "clean"], columns=2, scale=3, frame_ms=100)
    with Image.open(path) as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0
        assert gif.size == ((2 * 5 - 1) * 3, (2 * 5 - 1) * 3 + 16)  # two columns and lines, a gap of one, a line of text
        for n, (value, ms) in enumerate(((0, 100), (100, 100), (200, grids.HOLD_MS))):
            gif.seek(n)
            assert gif.convert("L").getpixel((1, 1)) == pytest.approx(value, abs=2)
            assert gif.info["duration"] == ms


def test_gif_wants_a_label_for_every_frame(tmp_path):
    with pytest.raises(ConfigError, match="labels=1: must label each of 2 frames"):
        grids.save_gif(tmp_path / "a.gif", [images(1)] * 2, ["t = 1"])


def test_losses_of_any_length_make_a_picture(tmp_path):
    for n in (1, 3, 60):
        path = plots.save_losses(tmp_path / f"{n}.png", {"torch": np.linspace(1, 0.1, n)}, "loss")
        with Image.open(path) as picture:
            assert picture.size == (720, 480)


def test_every_curve_is_drawn(monkeypatch, tmp_path):
    drawn = []
    plot = plots.plot
    monkeypatch.setattr(plots, "plot", lambda *args: drawn.append(plot(*args)) or drawn[0])
    plots.save_losses(tmp_path / "a.png", {str(n): [1.0, 0.5] for n in range(9)}, "loss")
    assert len(drawn[0][1].get_legend().get_texts()) == 9


def test_of_marks_that_would_cover_one_another_the_round_ones_stay(tmp_path):
    figure, axes = plots.plot("network calls", "FID")
    axes.plot([5, 100], [1, 2])
    plots.logarithmic(axes, "x")
    plots.mark(axes, [5, 6, 7, 8, 9, 10, 11, 19, 20, 21, 50, 51, 99, 100])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["5", "6", "7", "10", "20", "50", "100"]
    assert axes.get_xticks().tolist() == [5, 6, 7, 10, 20, 50, 100]
    plots.save(figure, tmp_path / "a.png")


def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file.*can't be made"):
        grids.save_grid(tmp_path / "file" / "a.png", images(1), 1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
