"""Every backend computes in as many threads as `--threads` says, or its rows say in how many."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

import backends
from bench.messages import Create, TimeForward
from bench.presets import PRESETS
from bench.records.environment import worker_env
from bench.workers.process import Worker

LOOKS, PAUSE = 60, 0.002  # at least so many, and seconds between two of them
BATCH = 64
HERE = [name for name in backends.names() if backends.installed(name) and backends.about(name).network]


def at_once(pid):
    """How many threads of a process compute now. One that waits for a core counts, so that other processes change nothing; one
    that waits for another does not."""
    count = 0
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            count += path.read_text().rpartition(")")[2].split()[0] == "R"
        except OSError:  # it has ended
            continue
    return count


def usual(worker, work):
    """The number of threads that most looks find computing while the worker does this, any at all."""
    seen = Counter()
    with ThreadPoolExecutor(1) as pool:
        while seen.total() < LOOKS:
            done = pool.submit(worker.call, work)
            while not done.done():
                if found := at_once(worker._process.pid):
                    seen[found] += 1
                wait([done], PAUSE)
            done.result()
    return seen.most_common(1)[0][0]


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not say what each thread does")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", HERE)
def test_a_worker_computes_in_the_threads_of_its_row(tmp_path, backend, threads):
    """MindSpore's runtime has no fewer than two, which its rows then say."""
    p = PRESETS["smoke"]
    spec = {"model": p.model.to_dict(), "diffusion": p.diffusion.to_dict(), "optim": p.optim.to_dict(), "device": "cpu",
            "dtype": "float32"}
    with Worker(backend, spec, threads, tmp_path / "log") as worker:
        said = int(worker.call(Create()).device["threads"])
        worker.call(TimeForward(1, BATCH, 0))  # compiles
        found = usual(worker, TimeForward(1, BATCH, 0))
    assert said == (2 if backend == "mindspore" else threads)
    assert found == said


KERNEL_THREADS = """
import sys
from pathlib import Path
import numpy as np
import backends
from backends.protocol import Spec
from tests.helpers.tiny import TINY

backend = backends.load("mindspore").create(Spec(TINY))
backend.to_host(backend.forward(backend.to_device(np.zeros((1, 1, 8, 8), np.float32)), backend.to_device(np.zeros(1))))
print(sum(path.read_text().startswith("KernelThread") for path in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler, for a machine's cores")
def test_mindspore_is_held_on_a_machine_of_many_cores(tmp_path):
    """By itself it starts a thread for each core, whatever OMP_NUM_THREADS says. Beside these one more
    computes, which starts the kernels."""
    pytest.importorskip("mindspore")
    source, library = tmp_path / "cores.c", tmp_path / "cores.so"
    source.write_text("int get_nprocs(void) { return 8; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    variables = {**os.environ, **worker_env(4), "LD_PRELOAD": str(library)}
    run = subprocess.run([sys.executable, "-c", KERNEL_THREADS], env=variables, capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[-1]) == 3
