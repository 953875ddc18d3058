"""Pictures are read back with Pillow: sizes, pixels, frames and durations; a file that can't be written leaves nothing."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from bench.files import FileError
from bench.pictures import grids, plots, svg
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
    monkeypatch.setattr(plots, "plot", lambda *args: drawn.append(plot(*args)) or drawn[-1])
    plots.save_losses(tmp_path / "a.png", {str(n): [1.0, 0.5] for n in range(9)}, "loss")
    assert len(drawn.pop()[1].get_legend().get_texts()) == 9

    plots.save_losses(tmp_path / "a.png", {"torch": np.arange(12.0)}, "loss")
    steps, means = drawn[0][1].lines
    assert steps.get_xdata().tolist() == list(range(1, 13)) and steps.get_ydata().tolist() == list(range(12))
    assert means.get_xdata().tolist() == list(range(3, 13)), "a mean of 3 stands at the last of its steps"
    np.testing.assert_allclose(means.get_ydata(), np.arange(1, 11), rtol=1e-12)
    assert means.get_label() == "torch, mean of 3"  # a quarter of the steps, at most


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


def test_each_image_is_a_file_of_its_number_upright_and_in_its_colours(tmp_path):
    colour = np.arange(2 * 3 * 2 * 4, dtype=np.uint8).reshape(2, 3, 2, 4)
    grids.save_each(tmp_path / "new", colour)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["00000.png", "00001.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "00001.png")), colour[1].transpose(1, 2, 0))
    grids.save_each(tmp_path, colour[:1, :1])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "00000.png")), colour[0, 0])


def figure_of(monkeypatch, draw):
    """The axes of an SVG that `draw` makes."""
    found = []
    monkeypatch.setattr(svg, "_svg", lambda figure: found.extend(figure.axes) or "")
    draw()
    return found


def test_the_running_mean_of_an_svg_stands_in_the_middle_of_its_steps(monkeypatch):
    axes, = figure_of(monkeypatch, lambda: svg.losses({"torch": np.arange(1.0, 9.0)}))
    mean = axes.get_lines()[1]
    assert mean.get_xdata().tolist() == mean.get_ydata().tolist() == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]


def test_panels_have_the_same_axes_and_say_what_they_show_at_the_edges(monkeypatch):
    def one(name, x, y):
        return name, [svg.Series(name, x, y)]

    def draw():
        svg.multiples([one("a", [1, 10], [2, 3]), one("b", [5, 100], [1, 2]), one("c", [2, 3], [4, 50])], "steps", "FID",
                      bounds={"floor": 0.5})

    shown = figure_of(monkeypatch, draw)
    axes, spare = shown[:3], shown[3]
    assert len({(a.get_xlim(), a.get_ylim()) for a in axes}) == 1 and not spare.axison
    (left, right), (low, high) = axes[0].get_xlim(), axes[0].get_ylim()
    assert left < 1 < 100 < right and low < 0.5 < 50 < high
    assert [(a.get_title(), a.get_xlabel(), a.get_ylabel()) for a in axes] == [("a", "", "FID"), ("b", "steps", ""),
                                                                             ("c", "steps", "FID")]
    assert [len(a.get_lines()) for a in axes] == [3 + 1 + 1] * 3  # pale ones of all, its own, the bound


def test_a_point_has_its_spread_in_y_and_in_x(monkeypatch):
    series = svg.Series("a", [10.0, 20.0], [4.0, 3.0], error=[1.0, 0.5], x_error=[2.0, 5.0], colour=2)
    axes, = figure_of(monkeypatch, lambda: svg.curves([series], "steps", "FID"))
    (line, _, (across, upright)), = axes.containers
    assert [tuple(map(tuple, s)) for s in upright.get_segments()] == [((10, 3), (10, 5)), ((20, 2.5), (20, 3.5))]
    assert [tuple(map(tuple, s)) for s in across.get_segments()] == [((8, 4), (12, 4)), ((15, 3), (25, 3))]
    assert (line.get_color(), line.get_marker()) == (plots.COLOURS[2], svg.MARKERS[2])
    assert axes.get_xscale() == axes.get_yscale() == "log"


@pytest.mark.parametrize("y, marked", [((2, 4), [2, 3, 4]), ((1, 99), [1, 2, 5, 10, 20, 50]),
                                       ((1, 1e6), [1, 10, 100, 1e3, 1e4, 1e5])])
def test_a_logarithmic_axis_is_marked_as_densely_as_it_can_be_read(y, marked):
    figure, axes = plots.plot()
    axes.set_ylim(*y)
    plots.logarithmic(axes, "y")
    ticks = [tick for tick in axes.get_yticks() if y[0] <= tick < y[1] + (y[1] == 4)]
    assert [round(tick, 9) for tick in ticks] == marked
    pyplot.close(figure)


def test_a_strip_has_pixels_of_its_scale():
    with Image.open(BytesIO(svg.strip(images(3), 3, scale=2))) as picture:
        assert picture.size == (2 * 14, 2 * 4) and picture.getpixel((2 * 5, 0)) == 20
