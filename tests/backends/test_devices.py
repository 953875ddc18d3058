"""A device that a backend does not have is refused in one line, which says what there is."""

import re

import pytest

import backends
from backends import claims
from backends.protocol import DeviceError, Spec
from bench.cli import commands
from bench.cli.main import main
from bench.cli.values import device
from tests import require_device
from tests.helpers.tiny import TINY


@pytest.mark.parametrize("backend", [name for name in backends.names() if backends.installed(name)])
def test_a_backend_refuses_mps(backend):
    with pytest.raises(DeviceError, match=f"^device='mps': the {backend} backend has cpu[a-zN:, ]*$"):
        backends.load(backend).create(Spec(TINY, device="mps"))


def with_device(parser) -> list[str]:
    """The commands from this one down that have the option."""
    found = [name for below in parser.commands.values() for name in with_device(below)]
    return found + [parser.prog] * any(action.dest == "device" for action in parser._actions)


@pytest.mark.parametrize("command", with_device(commands.parser()))
def test_mps_is_refused_by_one_line_before_all_else(tmp_path, monkeypatch, capsys, command):
    """The main job printed its heading first, the speed table named all contenders, and the study of scaling tried every point."""
    monkeypatch.chdir(tmp_path)
    for name in ("mps", "cuda:", "cuda:x", "cpu:0", "CPU"):
        assert main([*command.split()[1:], "--device", name]) == 2
        assert capsys.readouterr() == ("", f"error: --device: {name!r}: must be cpu, cuda, cuda:N, ascend or tpu\n")
    assert not list(tmp_path.iterdir())


def test_every_device_that_a_backend_may_claim_can_be_asked_for():
    for name in (*claims.NAMES["devices"], "cuda:0", "cuda:12"):
        assert device(name) == name


def test_a_machine_without_a_driver_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(require_device.DRIVERS, "tpu", (str(tmp_path / "accel*"),))
    assert require_device.main("tpu", [], driver=True) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: device 'tpu' doesn't work: this machine has no \S+accel\*, of its driver\n", said)
    (tmp_path / "accel0").touch()
    assert require_device.main("tpu", [], driver=True) == 0 and capsys.readouterr().err == ""
