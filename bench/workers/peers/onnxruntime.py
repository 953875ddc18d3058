"""ONNX Runtime: a session of the exported graph, with its own optimisations, as its guide for CPUs says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.workers.peers.exported import Exported, Run


class OnnxRuntime(Exported):
    """In float32."""

    def engine_version(self) -> str:
        """Its version; the exporter's packages must be there, too."""
        import onnxruntime
        import onnxscript  # noqa: F401
        return f"onnxruntime {onnxruntime.__version__}"

    def convert(self, network: Any, x: Any, t: Any) -> Run:
        """By `torch.onnx.export`, with the process's threads."""
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.onnx")
            torch.onnx.export(network, (x, t), path, input_names=["x", "t"], dynamo=True, verbose=False)
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x, t: torch.from_numpy(session.run(None, {"x": x.numpy(), "t": t.numpy()})[0])
