"""The torch backend, harmed as the variable SHAKY says, registered by an entry point as an outside package would be."""

import os
import signal
import sys
import time

import numpy as np

from backends.torch.backend import TorchBackend
from reference.config import ConfigError


def create(spec):
    if os.environ.get("SHAKY") == "die in create":
        die()
    return Shaky(spec)


def die():
    print("the last words")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


class Shaky(TorchBackend):
    """The harms of training start at step 3; those of drawing need more than 3 images."""

    def train_step(self, batch):
        harm = os.environ.get("SHAKY") if batch.step == 3 else None
        if harm == "die in train":
            die()
        if harm == "freeze in train":
            os.kill(os.getpid(), signal.SIGSTOP)
        if harm == "nan in train":
            return self.to_device(np.array(np.nan, np.float32))
        if harm == "random in train":
            self.network.conv_in.weight.data[0, 0, 0, 0] += float(np.random.default_rng().uniform(0.5, 1))
        return super().train_step(batch)

    def _backward(self, batch, *more):
        if os.environ.get("SHAKY") == "full in train" and len(batch.t) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super()._backward(batch, *more)

    def sample(self, x, plan, noise=None, **more):
        harm = os.environ.get("SHAKY") if len(x) > 3 else None
        if harm == "hang in sample":
            time.sleep(1000)
        if harm == "garbage in sample":
            os.write(int(sys.argv[1]), b"\xff\x00 loading [3/5]\n")
        if harm == "own error in sample":
            raise ConfigError("S=5: is my mistake")
        if harm == "nan in sample":
            return super().sample(x, plan, noise, **more) * float("nan")
        if harm == "full in sample" and len(x) > 20:
            raise MemoryError("Unable to allocate 20 GiB")
        return super().sample(x, plan, noise, **more)
