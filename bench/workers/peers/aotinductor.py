"""torch.export and AOTInductor: the network compiled ahead of time into a library that runs without Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.workers.peers.exported import Exported, Run


class AotInductor(Exported):
    """In bfloat16 the network is of that precision, as the tuned peers' is."""

    def engine_version(self) -> str:
        """That of torch."""
        import torch
        return f"AOTInductor of torch {torch.__version__}"

    def convert(self, network: Any, x: Any, t: Any) -> Run:
        """With weights as constants of the library, which it may lay out as its kernels like."""
        import copy

        import torch

        dtype = torch.bfloat16 if self.spec.dtype == "bfloat16" else torch.float32
        program = torch.export.export(copy.deepcopy(network).to(dtype), (x.to(dtype), t))
        with tempfile.TemporaryDirectory() as folder:
            package = torch._inductor.aoti_compile_and_package(
                program, package_path=str(Path(folder, "network.pt2")), inductor_configs={"freezing": True})
            run = torch._inductor.aoti_load_package(package)
        return lambda x, t: run(x.to(dtype), t).float()
