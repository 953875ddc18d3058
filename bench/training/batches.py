"""The inputs of training steps, from the streams: the same for every backend and every number of processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Batch, Spec
from bench.streams import coin, normal, permutation, uniform_int
from reference.config import require

DISTINCT = 8  # samples of a batch by which a backend is compared with the oracle
AHEAD = 4  # batches, and threads that make them, for an accelerator


def training_batch(seed: int, images: NDArray[np.uint8], step: int, batch_size: int, T: int, *, flip: bool = False,
                   self_conditioning: bool = False, rank: int = 0, processes: int = 1) -> Batch:
    """Inputs of training step 0, 1, ..: samples step * batch_size .. of the training stream.

    Of these, process `rank` gets every `processes`-th one; shares must be equal, for the mean of their means to be the batch's.

    `images` is the whole data set, (N, C, H, W) uint8, scaled to [-1, 1] as x / 127.5 - 1. Each epoch visits it once, in an
    order of its own; a batch may span epochs. `flip` mirrors half of the samples left to right.
    """
    require(images.dtype == np.uint8 and images.ndim == 4 and len(images) > 0, "images", (images.dtype, images.shape),
            "must be uint8 of shape (N, C, H, W), N at least 1")
    require(batch_size >= 1, "batch_size", batch_size, "must be at least 1")
    require(batch_size % processes == 0, "batch_size", batch_size, f"must be a multiple of the {processes} processes")
    ids = step * batch_size + np.arange(rank, batch_size, processes, dtype=np.int64)
    epoch, position = np.divmod(ids, len(images))
    index = np.concatenate([permutation(seed, "order", len(images), int(e))[position[epoch == e]] for e in np.unique(epoch)])
    x0 = images[index].astype(np.float32) / np.float32(127.5) - np.float32(1)
    if flip:
        x0 = np.where(coin(seed, "flip", ids)[:, None, None, None], x0[..., ::-1], x0)
    return Batch(
        ids=ids, x0=x0, t=uniform_int(seed, "t", ids, T), noise=normal(seed, "noise", ids, images.shape[1:]), step=step,
        coin=coin(seed, "self_conditioning", ids) if self_conditioning else None,
    )


def batch_of(spec: Spec, images: NDArray[np.uint8], seed: int, step: int, size: int, flip: bool) -> Batch:
    """The inputs of one training step."""
    return training_batch(seed, images, step, size, spec.diffusion.timesteps, flip=flip,
                          self_conditioning=spec.diffusion.self_conditioning, rank=spec.rank, processes=spec.processes)


def comparable(spec: Spec, images: NDArray[np.uint8], seed: int, size: int, flip: bool = False) -> Batch:
    """A batch whose loss the oracle knows for little: the first samples of the training stream, at most `DISTINCT`, each as often
    as fills it, and with self-conditioning none that is conditioned."""
    few = max(n for n in range(1, DISTINCT + 1) if size % n == 0)
    batch = training_batch(seed, images, 0, few, spec.diffusion.timesteps, flip=flip)
    again = np.repeat(np.arange(few), size // few)  # each half has samples of its own
    return Batch(np.arange(size), batch.x0[again], batch.t[again], batch.noise[again], 0,
                 np.zeros(size, bool) if spec.diffusion.self_conditioning else None)


def batches(spec: Spec, images: NDArray[np.uint8], seed: int, start: int, stop: int, size: int, flip: bool) -> Iterator[Batch]:
    """The inputs of steps start .. stop - 1, in order. For an accelerator threads make them ahead, so that it does not wait."""
    make = partial(batch_of, spec, images, seed, size=size, flip=flip)
    if spec.device == "cpu":
        yield from map(make, range(start, stop))
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        queue = deque(pool.submit(make, step) for step in range(start, min(start + AHEAD, stop)))
        for step in range(start + AHEAD, stop + AHEAD):
            batch = queue.popleft().result()
            if step < stop:
                queue.append(pool.submit(make, step))
            yield batch
