"""`python -m tests.require_device cuda|ascend`: one line and exit code 1 where the device doesn't work; never a skip.

`pytest --device=cuda` asks here first, too.
"""

from __future__ import annotations

import argparse
import sys


def problem(device: str) -> str | None:
    """Compute something on the device; one line where that fails."""
    try:
        if device.startswith("cuda"):
            import torch
            assert torch.cuda.is_available(), "torch.cuda.is_available() is False"
            assert float(torch.ones(8, device=device).sum()) == 8
        else:
            import mindspore as ms
            ms.set_device("Ascend")
            assert float(ms.ops.ones((8,), ms.float32).sum()) == 8
    except Exception as error:  # whatever a broken driver raises means the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"device {device!r} doesn't work: {reason}"
    return None


def main(device: str) -> int:
    """The command."""
    if reason := problem(device):
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.require_device", description=__doc__)
    parser.add_argument("device", help="cuda or ascend")
    sys.exit(main(parser.parse_args().device))
