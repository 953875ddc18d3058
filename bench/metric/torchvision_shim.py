"""Import torchvision where its compiled operators do not load.

torch-fidelity imports torchvision. A CPU-only PyTorch beside a torchvision wheel built for CUDA fails that import with
"operator torchvision::nms does not exist": the compiled library is skipped, then meta kernels are registered for
operators that nobody declared. Declaring the two schemas lets the import finish. The operators (box suppression) stay
without a kernel and are never called here. A torchvision that imports is left alone.
"""

from __future__ import annotations

import sys
from typing import Any

# torch forgets the schemas when the Library object dies.
_kept_alive: list[Any] = []


def import_torchvision() -> None:
    """Make `import torchvision` work. Raises the original RuntimeError if the cause is another."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(library)
        import torchvision  # noqa: F401
