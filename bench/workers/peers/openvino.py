"""OpenVINO on the CPU, in float32 or with its hint of bfloat16, tuned for latency: one stream with all threads."""

from __future__ import annotations

from typing import Any

from bench.workers.peers.exported import Exported, Run


class OpenVino(Exported):
    """Its own conversion from torch."""

    def engine_version(self) -> str:
        """Its version."""
        import openvino
        return f"openvino {openvino.__version__}"

    def convert(self, network: Any, x: Any, t: Any) -> Run:
        """By `convert_model`, for these shapes alone."""
        import openvino
        import torch

        model = openvino.convert_model(network, example_input=(x, t), input=[tuple(x.shape), tuple(t.shape)])
        compiled = openvino.Core().compile_model(model, "CPU", {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.spec.dtype]})
        return lambda x, t: torch.from_numpy(compiled([x.numpy(), t.numpy()])[0])
