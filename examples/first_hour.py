# %% [markdown]
# # The first hour with diffusion models
#
# A trained network of Fashion-MNIST is loaded, sampled, looked at, timed, checked, run backwards and measured. All of it takes less
# than two minutes on two CPU cores; `python examples/first_hour.py` runs it, and `first_hour.ipynb` is the same as a notebook.

# %%
import sys
from pathlib import Path

import numpy as np

from bench.api import load
from bench.data.datasets import load_subset
from bench.data.pixels import to_float, to_uint8
from bench.metric import fid
from bench.paths import CHECKPOINTS
from bench.pictures.grids import save_grid

N = 128  # images of each number of steps; FID[fmnist-cnn] has 64 features and needs at least twice as many images
STEPS = (5, 10, 50)


def look(path: Path) -> None:
    """Show a picture in a notebook; elsewhere say where it is."""
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        display(Image(str(path)))
    print(f"picture: {path}")


# %% [markdown]
# ## 1. Load
#
# The network was trained to say which noise was added to an image, for each of T = 1000 amounts of it (DDPM, Ho et al. 2020,
# arXiv:2006.11239, algorithm 1). `backend="mindspore"` or `"jax"` gives the same network in another framework, and the same images.

# %%
model = load(CHECKPOINTS / "fmnist-small", backend="torch")
print(f"images of shape {model.spec.image_shape}, T = {model.spec.diffusion.timesteps}")

# %% [markdown]
# ## 2. Sample with 5, 10 and 50 steps
#
# DDIM (Song et al. 2020, arXiv:2010.02502, equation 12) visits only S of the 1000 amounts of noise, so that S network calls make an
# image. With eta = 0 it adds no noise on the way, and an image is a function of the noise x_T that it began with, which the seed
# fixes.

# %%
drawn = {steps: model.sample(N, steps=steps, eta=0.0, seed=0) for steps in STEPS}

# %% [markdown]
# ## 3. Look
#
# Each line has the same eight x_T. With few steps the images are blurred, but most show the same thing: x_T decides what is seen,
# and S how well.

# %%
rows = np.concatenate([to_uint8(images[:8]) for images in drawn.values()])
look(save_grid(Path("first-hour-samples.png"), rows, 8, title="the same x_T", rows=[f"S = {steps}" for steps in STEPS]))

# %% [markdown]
# ## 4. Time
#
# A step costs one network call whatever S is, so an image's time is S times that of a step. The median of several blocks is taken,
# since other programs and the first calls disturb single ones; `python bench/run.py` times backends in turn, which is fairer.

# %%
timed = model.time(steps=50, batch_size=16)
print(f"a step of 16 images: {1e3 * timed['seconds_per_step']:.1f} ms; {timed['images_per_second']:.1f} images/s at S = 50")

# %% [markdown]
# ## 5. Check
#
# Nice pictures do not show that a formula is right: many mistakes cost only a little quality. The same schedule, network, loss and
# path are therefore computed in float64 by NumPy, and the largest difference of each is held to a tolerance.

# %%
for name, found in model.check().items():
    print(f"{name}: off by {found['error']:.1e} of at most {found['tolerance']:.0e}: {'ok' if found['ok'] else 'WRONG'}")

# %% [markdown]
# ## 6. Encode and decode
#
# DDIM with eta = 0 solves a differential equation, which can be run from an image back to its x_T (section 4.3 of the paper).
# Decoding gives the image again, the better the more steps are taken both ways: the error is that of the solver.

# %%
held_out = load_subset("fashion-mnist", "test")
real = to_float(held_out.images[:8])
decoded = {}
for steps in STEPS:
    latents = model.encode(real, steps)
    decoded[steps] = model.follow(latents, model.plan(steps))
    print(f"S = {steps}: mean squared error {np.square(decoded[steps] - real).mean():.5f}; deviation of x_T {latents.std():.3f}")
rows = np.concatenate([to_uint8(images) for images in (real, *decoded.values())])
look(save_grid(Path("first-hour-decoded.png"), rows, 8, title="encoded and decoded", rows=["real", *(f"S = {s}" for s in STEPS)]))

# %% [markdown]
# ## 7. FID of a few images
#
# FID (Heusel et al. 2017, arXiv:1706.08500) compares mean and covariance of features of generated and of real images; here a small
# network that ships gives the features. It is larger for fewer images, so it is read beside what as many real images and as much
# noise score, and a difference counts only beyond the deviation behind the sign ±.

# %%
real_images, noise = fid.floor(N, test=held_out), fid.ceiling(N)
print(f"real images: {real_images['fid']:.1f} ± {real_images['fid_sd']:.1f}; noise: {noise['fid']:.1f} ± {noise['fid_sd']:.1f}")
for steps, images in drawn.items():
    measured = fid.evaluate(to_uint8(images))
    print(f"S = {steps}: FID[fmnist-cnn] {measured['fid']:.1f} ± {measured['fid_sd']:.1f} of n = {N} images")
