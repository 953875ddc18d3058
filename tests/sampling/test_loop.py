"""The loop over batches and its parts, by a backend of NumPy whose images show which noise reached which row."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import BackendError
from bench import files, streams
from bench.messages import Load, Sample
from bench.sampling import loop, parts
from bench.sampling.cell import Cell, Draw
from reference.config import ConfigError, DiffusionConfig

SHAPE = (1, 2, 2)
PLAN = SimpleNamespace(steps=3)


class Adds:
    """An image is its x and the noise of every step."""

    def __init__(self, room=99):
        self.room, self.sizes = room, []

    def to_device(self, x):
        return x

    def to_host(self, x):
        return x

    def synchronize(self, *_):
        pass

    def sample(self, x, plan, z, on_step=None):
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise MemoryError
        for i in range(plan.steps):
            x = x + z(i)
            on_step(i)
        return x


def expected(ids, seed=7):
    return streams.normal(seed, "x_T", ids, SHAPE) + sum(streams.normal(seed, "z", ids, SHAPE, step=i) for i in range(3))


@pytest.mark.parametrize("room, sizes, ends_with", [(99, [4, 4], 4), (2, [4, 2, 2, 2], 2)])
def test_every_image_has_the_noise_of_its_id_in_batches_of_one_size(room, sizes, ends_with):
    backend, ids, seen = Adds(room), np.array([9, 3, 5, 2, 8, 0]), []
    done = loop.draw(backend, PLAN, ids, SHAPE, seed=7, batch_size=4, on_progress=lambda *both: seen.append(both))
    np.testing.assert_allclose(done.images, expected(ids), rtol=1e-6)
    assert backend.sizes == sizes and done.batch_size == ends_with and len(done.batch_seconds) == -(-6 // ends_with)
    assert done.notes == (["out of memory with a sampling batch of 4; going on with 2"] if room < 4 else [])
    assert [n for n, _ in seen] == sorted({n for n, _ in seen}) and seen[-1] == (18, 18) and seen[0][0] == min(room, 4)


def test_a_batch_of_one_that_memory_cannot_hold_is_the_end():
    with pytest.raises(MemoryError):
        loop.draw(Adds(0), PLAN, np.arange(2), SHAPE, seed=0, batch_size=2)


@pytest.mark.parametrize("given, said", [
    (np.array([1.0, np.inf, np.nan]), "images: 2 of 3 values are not finite"),
    (np.zeros((3, 1)), r"images: shape \(3, 1\) in place of \(3,\)")])
def test_what_is_no_image_is_refused(given, said):
    with pytest.raises(BackendError, match=said):
        loop.sound("images", given, (3,))


def worker(seen):
    """Answers as a worker does: each image is its own number, a batch takes its first id in seconds."""
    def call(command, stage=""):
        seen.append((stage, command))
        if isinstance(command, Load):
            return None
        ids = range(*command.ids)
        files.write_rows(command.out, np.arange(ids.start, ids.stop, dtype=np.float32)[:, None], command.at, command.total)
        return SimpleNamespace(seconds=float(ids.start), calls=10, batch_seconds=[1.0, 1.0],
                               notes=[f"note {ids.start} {stage[:5]}"])
    return call


@pytest.mark.parametrize("sampler", [None, "heun"])
def test_parts_are_drawn_once_by_whoevers_turn_it_is_and_collected_in_order(tmp_path, sampler):
    files.folder(tmp_path / "work")
    wanted, seen = Draw({}, Cell(5, 0.0, None, 3, sampler), "plain", 10, 4), ([], [])
    for rank in (1, 0):
        parts.draw(worker(seen[rank]), wanted, tmp_path / "work", rank, 2)
    asked = {rank: [c.ids for s, c in seen[rank] if isinstance(c, Sample) and s != "first call"] for rank in (0, 1)}
    assert asked == {0: [(0, 4), (8, 10)], 1: [(4, 8)]}
    assert [c.plan for s, c in seen[0] if s == "first call"] == [wanted.cell.short]
    assert {p.name for p in (tmp_path / "work").iterdir()} == {"images.npy", *(p.name for p in wanted.parts(tmp_path))}
    parts.draw(worker(again := []), wanted, tmp_path / "work")
    assert again == []  # all are there
    found = parts.collect(wanted, tmp_path / "work", tmp_path / "out.npy")
    assert (found["batch_seconds"], found["calls"], found["images"]) == ([0.0, 4.0, 8.0], 30, 10)
    assert found.get("calls_per_image") == (5 if sampler else None)  # two batches a part
    assert found["notes"] == ["note 0 first", "note 0 sampl", "note 0 first", "note 4 sampl", "note 8 sampl"]  # each once
    assert np.load(tmp_path / "out.npy")[:, 0].tolist() == list(range(10))


def test_a_part_whose_images_changed_is_drawn_again(tmp_path):
    wanted = Draw({}, Cell(5, 0.0, None, 3), "plain", 6, 4)
    parts.draw(worker([]), wanted, tmp_path)
    images = np.load(tmp_path / "images.npy")
    images[5] = 0.5
    np.save(tmp_path / "images.npy", images)
    with pytest.warns(UserWarning, match="does not match its CRC-32: images 4 to 5 are drawn again"):
        parts.draw(worker(seen := []), wanted, tmp_path)
    assert [c.ids for s, c in seen if s.startswith("sample")] == [(4, 6)]
    record = json.loads((tmp_path / "images-000004.json").read_text())
    (tmp_path / "images-000004.json").write_text(json.dumps(record | {"crc32": 1}))
    with pytest.warns(UserWarning), pytest.raises(files.FileError, match="images-000004.json: damaged; the same command draws"):
        parts.collect(wanted, tmp_path)


def test_no_image_and_no_batch_are_refused():
    for ids, batch_size, said in ((np.arange(0), 4, "ids=0: must be at least one"),
                                  (np.arange(2), 0, "batch_size=0: must be at least 1")):
        with pytest.raises(ConfigError, match=said):
            loop.draw(Adds(), PLAN, ids, SHAPE, seed=0, batch_size=batch_size)


def test_a_timed_block_that_is_longer_than_the_path_goes_along_it_again():
    """From x_T each time, all the images of the batch."""
    class Follows(Adds):
        def sample(self, x, plan, z, on_step=None):
            self.sizes.append((len(x), plan.timesteps, z))
            return x

    backend = Follows()
    _, x = loop.time_steps(backend, SimpleNamespace(diffusion=DiffusionConfig(timesteps=3), image_shape=SHAPE), 8, 5, 2)
    assert backend.sizes == [(5, (2, 1, 0), None), (5, (2, 1, 0), None), (5, (2, 1), None)]
    np.testing.assert_array_equal(x, streams.normal(2, "x_T", np.arange(5), SHAPE))
