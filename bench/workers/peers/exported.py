"""diffusers' network as another engine runs it, on a CPU: converted once for each batch size, and checked before it is timed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from backends.protocol import BackendError, Batch, Spec
from bench.workers.peers.diffusers import Diffusers
from reference.config import require

MOST = {"float32": 1e-3, "bfloat16": 0.1}  # largest difference to the eager network's output in float32, by its largest value
Run = Callable[[Any, Any], Any]  # the network's output of x (N, C, H, W) float32 and t (N,) int64


class Output(NamedTuple):
    """As `UNet2DModel` answers."""

    sample: Any


class Exported(Diffusers):
    """Sampling alone, with the weights as constants: other ones are converted anew."""

    def __init__(self, spec: Spec) -> None:
        require(spec.device == "cpu", "device", spec.device, "exported networks are timed on the CPU")
        self.difference = 0.0
        super().__init__(spec)
        self.engine_version()

    def engine_version(self) -> str:
        """Its name and version. Raises `ImportError` where it is not installed."""
        raise NotImplementedError

    def convert(self, network: Any, x: Any, t: Any) -> Run:
        """The engine's form of `network(x, t)`, a torch module, for inputs of these shapes."""
        raise NotImplementedError

    @functools.cached_property
    def drawing(self) -> Any:
        """The converted network, one for each shape of x."""
        network, converted = _plain(copy.deepcopy(self.network).eval().requires_grad_(False)), dict[Any, Run]()

        def call(x: Any, t: Any) -> Output:
            t = t.reshape(-1).long().expand(len(x)).contiguous()
            if x.shape not in converted:
                converted[x.shape] = self._checked(network, x, t)
            return Output(converted[x.shape](x, t))

        return call

    def _checked(self, network: Any, x: Any, t: Any) -> Run:
        """Convert; the largest difference to the eager network's output is kept, and refused where it is no rounding."""
        import torch

        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode can't be exported
            x, t = x.clone(), t.clone()
            run = self.convert(network, x, t)
            found, expected = run(x, t).float(), network(x, t)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= MOST[self.spec.dtype]:  # nor is NaN, of an output that is 0 everywhere and would show nothing
            raise BackendError(f"{self.engine_version()}: its network differs from diffusers' by {difference:.3g} of the largest "
                               f"value, more than {MOST[self.spec.dtype]:g}: the conversion is wrong")
        self.difference = max(self.difference, difference)
        return run

    def _inputs(self, x: Any) -> Any:
        return x.float().contiguous()

    def device_info(self) -> dict[str, str]:
        """What runs where, and how far its output is from the eager network's."""
        return super().device_info() | {"framework": self.engine_version(), "execution": "exported", "layout": "the engine's",
                                        "largest_difference": f"{self.difference:.2e}"}

    def train_step(self, batch: Batch) -> Any:
        """An engine has none."""
        raise BackendError(f"{self.engine_version()} runs networks, and trains none")


def _plain(network: Any) -> Any:
    """`UNet2DModel` as a module that answers with a tensor."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any, t: Any) -> Any:
            return self.network(x, t, return_dict=False)[0]

    return Plain().eval()
