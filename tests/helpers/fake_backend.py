"""A backend in NumPy that misbehaves on request, registered by an entry point as an outside package would be."""

import atexit
import os
import signal
import sys
import time

import numpy as np

from reference import samplers, weights


def create(spec):
    if harm() == "no device":
        from backends.protocol import DeviceError
        raise DeviceError("device='cuda': this machine has none")
    if harm() == "no framework":
        from backends import NotInstalled
        raise NotInstalled("backend='fake': no module; to install: pip install fake")
    if harm() == "slow to end":
        atexit.register(lambda: (time.sleep(2), print("took leave")))
    return Fake(spec)


def harm():
    """FAKE_HARM, or what the file of that name says now: one worker then shows many harms."""
    said = os.environ.get("FAKE_HARM", "")
    return open(said).read() if os.path.isabs(said) else said


class Fake:
    """The network's output is its input scaled by the first weight; a loss counts the steps."""

    def __init__(self, spec):
        self.spec, self.scale, self.steps = spec, 0.1, 0

    def to_device(self, array):
        return np.array(array)

    def to_host(self, tensor):
        return np.asarray(tensor)

    def synchronize(self, *results):
        pass

    def device_info(self):
        if harm() == "odd device":
            return {"framework": 5}
        return {"framework": "fake", "threads": os.environ["OMP_NUM_THREADS"], "allocator": os.environ["MALLOC_MMAP_MAX_"]}

    def tables(self, plan):
        found = samplers.coefficients(plan)
        return dict(list(found.items())[1:]) if harm() == "fewer tables" else found

    def load_weights(self, given):
        weights.check(given, self.spec.model, "weights")
        self.scale, self.steps = float(given["conv_in.weight"].flat[0]), 0

    def weights(self, ema=False):
        return {"scale": np.array(self.scale)}

    def state(self):
        return {"weights/scale": np.array(self.scale), "step": np.array(self.steps)}

    def load_state(self, state):
        self.scale, self.steps = float(state["weights/scale"]), int(state["step"])

    def forward(self, x, t, *, ema=False):
        return self.scale * x[:, :, :1] if harm() == "small output" else self.scale * x

    def loss_and_gradients(self, batch):
        if harm() == "nan loss":
            return np.float32("nan"), {}
        return np.float32(np.mean((batch.noise - self.scale * batch.x0) ** 2)), {}

    def train_step(self, batch):
        self.steps += 1
        if harm() == "nan" and batch.step == 3:
            return np.float32("nan")
        if harm() == "die" and batch.step == 3:
            print("the last words")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if harm() == "segfault" and batch.step == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if harm() == "exit" and batch.step == 3:
            os._exit(7)
        if harm() == "freeze" and batch.step == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        if harm() == "hang" and batch.step == 3:
            time.sleep(1000)
        while harm() == "wait":  # until its file says something else
            print("waiting", flush=True)
            time.sleep(0.05)
        if harm() == "slow":
            time.sleep(0.05)
        if harm() == "bug":
            raise RuntimeError("kernel\nmissing")
        if harm() == "children" and batch.step == 0:
            if child := os.fork():
                print("child", child)
            else:
                time.sleep(1000)
        return np.float32(batch.step + batch.t.sum() / 1e6)

    def sample(self, x, plan, noise=None, *, ema=True, on_step=None):
        if harm() == "chatter":
            print('{"reply": "not this"}')
            os.write(1, b'{"reply": "nor this"}\n' * 3000)
        if harm() == "garbage":
            os.write(int(sys.argv[1]), b"\xff\x00 loading [3/5]\n")
        if harm() == "forged":
            os.write(int(sys.argv[1]), b'{"reply": {"seconds": 1}}\n')
        if harm() == "half a line":
            os.write(int(sys.argv[1]), b'{"beat"')
        if harm() == "own error":
            from reference.config import ConfigError
            raise ConfigError("S=5: is my mistake")
        if harm() == "flat images":
            return x[:, :, 0, 0].reshape(len(x), -1, 1, 1)
        if harm() == "nan images":
            return np.where(x > 1, np.nan, x)
        if harm() == "oom" and len(x) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if harm() == "oom always":
            raise MemoryError("Unable to allocate 20 GiB")
        c = samplers.coefficients(plan)
        for i in range(plan.steps):
            z = noise(i) if plan.needs_noise and plan.noise_gate[i] else None
            x, _ = samplers.step(x, self.scale * x, i, plan, z, c)
            if on_step:
                on_step(i)
        return x.astype(np.float32)
