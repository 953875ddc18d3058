"""`python -m tests.require_device DEVICE --backend=NAME`: one line and exit code 1 where it can't compute there; never a skip.

`pytest --device=cuda` asks here first, too. With --driver it looks for the driver's files alone: tox asks so before it
installs gigabytes.
"""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Sequence

import numpy as np

import backends
from backends.protocol import Spec
from tests.helpers.tiny import TINY

DRIVERS = {"cuda": ("/dev/nvidiactl", "/dev/dxg"), "tpu": ("/dev/accel*", "/dev/vfio/*")}  # any of them, /dev/dxg in Windows' Linux


def undriven(device: str) -> str | None:
    """One line where this machine has no driver of a device of this kind."""
    found = any(glob.glob(pattern) for pattern in DRIVERS[device])
    return None if found else f"device {device!r} doesn't work: this machine has no {' or '.join(DRIVERS[device])}, of its driver"


def problem(device: str, names: Sequence[str] = ()) -> str | None:
    """Run a small network on the device; one line where no backend can, of these or of all that are installed."""
    reasons = []
    for name in names or [name for name in backends.names() if backends.installed(name)]:
        try:
            backend = backends.load(name).create(Spec(TINY, device=device, mode="stock"))
            x = np.zeros((1, TINY.in_channels, TINY.sample_size, TINY.sample_size), np.float32)
            output = backend.to_host(backend.forward(backend.to_device(x), backend.to_device(np.zeros(1))))
            assert np.isfinite(output).all(), "a network's output is no number there"
            return None
        except Exception as error:  # whatever a broken driver raises means the same
            text = str(error).strip() or type(error).__name__
            reasons.append(text.splitlines()[0])
    return f"device {device!r} doesn't work: {'; '.join(reasons)}"


def main(device: str, names: Sequence[str], driver: bool = False) -> int:
    """The command."""
    if reason := undriven(device) if driver else problem(device, names):
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.require_device", description=__doc__)
    parser.add_argument("device", help="cuda, cuda:N, ascend or tpu")
    parser.add_argument("--backend", action="append", default=[], metavar="NAME", help="default: any that is installed")
    parser.add_argument("--driver", action="store_true", help=f"look for the driver alone, of {' or '.join(DRIVERS)}")
    args = parser.parse_args()
    if args.driver and args.device not in DRIVERS:
        parser.error(f"--driver: device={args.device!r} must be one of {', '.join(DRIVERS)}")
    sys.exit(main(args.device, args.backend, args.driver))
