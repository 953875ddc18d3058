"""What is MindSpore's alone: its threads, `msrun`'s processes, files of its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from backends.protocol import Batch, DeviceError
from reference.config import ConfigError

ms = pytest.importorskip("mindspore")
from mindspore.train.checkpoint_pb2 import Checkpoint  # noqa: E402

from backends.mindspore import devices, distributed, weight_files  # noqa: E402
from backends.mindspore.backend import MindSporeBackend  # noqa: E402


def test_a_process_that_has_computed_keeps_its_device():
    """MindSpore lets nobody set it any more, not even the same one."""
    assert (ms.ops.ones((2, 2)) + 1).asnumpy().sum() == 8
    with pytest.raises(RuntimeError):
        ms.set_device("CPU")
    assert devices.find_device("cpu") == "CPU"
    with pytest.raises(DeviceError, match="device='ascend': MindSpore .* can't use it here: "):
        devices.find_device("ascend")


@pytest.mark.parametrize("asked, taken, said", [
    ("1", ["1"], "2"), ("8", ["8"], "8"), ("0", [], "default"), ("", [], "default"), ("many", [], "default"), ("3", ["3"], None)])
def test_rows_say_in_how_many_threads_it_computes(monkeypatch, asked, taken, said):
    """It has no fewer than two, and takes one number in its life: None is a program around that has set another."""
    found = []

    def threads_num(number):
        found.append(str(number))
        if said is None:
            raise RuntimeError("already set")

    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(ms.device_context.cpu.op_tuning, "threads_num", threads_num)
    assert devices.hold_threads.__wrapped__() == (said or "set by the program around")
    assert found == taken


@pytest.mark.parametrize("compiled, execution", [(True, "graph"), (False, "pynative")])
def test_rows_say_how_the_network_runs(compiled, execution):
    said = MindSporeBackend.device_info(SimpleNamespace(device="CPU", compiled=compiled))
    assert (said["device"], said["execution"]) == ("cpu", execution)


def test_the_group_is_msruns(monkeypatch):
    """The scheduler serves the others and ends; a process that is another one than its spec says does not train."""
    began = []
    for name, value in (("init", lambda: began.append(1)), ("get_rank", lambda: 1), ("get_group_size", lambda: 3)):
        monkeypatch.setattr(distributed.communication, name, value)
    monkeypatch.delenv("MS_ROLE", raising=False)
    with pytest.raises(ConfigError, match=r"rank, processes=\(2, 3\): msrun says \(1, 3\)"):
        distributed.join(SimpleNamespace(processes=3, rank=2))
    distributed.join(SimpleNamespace(processes=1, rank=0))  # alone: nobody is asked
    assert began == [1]
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    with pytest.raises(SystemExit) as ended:
        distributed.join(SimpleNamespace(processes=1, rank=0))
    assert ended.value.code == 0 and began == [1, 1]


def test_means_over_processes_are_no_sums_and_keep_their_shapes():
    """Of two processes, the other of which has twice the values."""
    average = distributed.Average([(2, 3), (4,)], 1)
    average.processes, average.total = 2, lambda flat: 3 * flat
    given = np.float32(7), np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.float32)
    loss, gradients = average.construct(ms.Tensor(given[0]), tuple(map(ms.Tensor, given[1:])))
    for found, value in zip((loss, *gradients), given, strict=True):
        assert found.shape == value.shape and np.array_equal(found.asnumpy(), 1.5 * value)
    assert MindSporeBackend.mean(SimpleNamespace(average=average, spec=SimpleNamespace(processes=2)), 0.2) == 3 * 0.2 / 2


def test_a_process_drops_elements_of_its_own_at_each_step():
    """Process 1 of 3 at step 2 has the key 2 x 3 + 1, which no other process and step have."""
    backend, x = SimpleNamespace(spec=SimpleNamespace(processes=3, rank=1), to_device=ms.Tensor), np.zeros((2, 1, 4, 4), np.float32)
    *_, key = MindSporeBackend._inputs(backend, Batch(np.arange(2), x, np.array([3, 19]), x, 2))
    assert int(key) == 7


@pytest.mark.parametrize("kind, dtype", [("Float16", np.float16), ("Float32", np.float32), ("Float64", np.float64),
                                         ("Int32", np.int32), ("Int64", np.int64)])
def test_a_large_parameter_is_all_of_its_slices(tmp_path, kind, dtype):
    """`save_checkpoint` writes those of more than half a gigabyte as several values of one name."""
    array, message = np.arange(12, dtype=dtype).reshape(3, 4), Checkpoint()
    for part in (array[:2], array[2:]):
        value = message.value.add()
        value.tag, value.tensor.tensor_type, value.tensor.tensor_content = "w", kind, part.tobytes()
        value.tensor.dims.extend(array.shape)
    (tmp_path / "a.ckpt").write_bytes(message.SerializeToString())
    found = weight_files.read(tmp_path / "a.ckpt")[""]["w"]
    assert found.dtype == dtype and np.array_equal(found, array)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    assert weight_files.read(tmp_path / "empty.ckpt") == {}
