"""A device that a backend does not have is refused in one line, which says what there is."""

import re
import subprocess
import sys

import pytest

import backends
from bench.paths import ROOT
from tests import require_device


@pytest.mark.parametrize("backend", [name for name in backends.names() if backends.installed(name)])
def test_mps_is_refused_before_anything_is_written(tmp_path, backend):
    command = [sys.executable, "-m", "bench", "run", "--preset", "smoke", "--backends", backend, "--device", "mps"]
    done = subprocess.run([*command, "--out", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(f"error: device='mps': the {backend} backend has cpu[a-zN:, ]*", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_a_machine_without_a_driver_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(require_device.DRIVERS, "tpu", (str(tmp_path / "accel*"),))
    assert require_device.main("tpu", [], driver=True) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: device 'tpu' doesn't work: this machine has no \S+accel\*, of its driver\n", said)
    (tmp_path / "accel0").touch()
    assert require_device.main("tpu", [], driver=True) == 0 and capsys.readouterr().err == ""
