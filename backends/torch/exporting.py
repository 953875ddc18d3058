"""The network as ONNX Runtime runs it, for sampling in float32 on a CPU."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backends import NotInstalled
from backends.protocol import DeviceError, Spec

from .unet import UNet


def engine(spec: Spec) -> str:
    """Its name and version. Raises `DeviceError` for another dtype or device, and `NotInstalled` for it and its exporter."""
    if (spec.device, spec.dtype) != ("cpu", "float32"):
        raise DeviceError(f"mode='exported': runs in float32 on the CPU, not in {spec.dtype} on {spec.device}; 'compiled' does")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise NotInstalled(f"mode='exported': {error}; to install: pip install -e \".[onnx]\"") from error
    return f"onnxruntime {onnxruntime.__version__}"


class Denoise(nn.Module):
    """`UNet.denoise` as a module, for modules are what can be exported."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time_shifts: list[Tensor]) -> Tensor:
        """The network's output."""
        return self.network.denoise(x, time_shifts)


def exported(network: UNet) -> Callable[[Tensor, list[Tensor]], Tensor]:
    """`network.denoise` with the weights of now as constants, a session for each shape of x. The network is the caller's copy: its
    layout becomes that of torch's own layers, which engines know."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    sessions = dict[torch.Size, Callable[..., np.ndarray]]()

    def call(x: Tensor, time_shifts: list[Tensor]) -> Tensor:
        if x.shape not in sessions:
            sessions[x.shape] = _session(network, x, time_shifts)
        return torch.from_numpy(sessions[x.shape](x, *time_shifts))

    return call


def _session(network: UNet, x: Tensor, time_shifts: list[Tensor]) -> Callable[..., np.ndarray]:
    """The network for inputs of these shapes, exported and opened, with the process's threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False), torch.no_grad():
        # Copies, for tensors of inference mode can't be exported; of one channel in channels_last the layout would go on from here.
        inputs = (x.clone(memory_format=torch.contiguous_format), [shift.clone() for shift in time_shifts])
        path = Path(folder, "network.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter, about itself
            torch.onnx.export(Denoise(network).eval(), inputs, path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)})[0]
