"""The devices there are, and the settings of JAX under which this backend computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from backends.protocol import DeviceError

try:
    from jax import enable_x64  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # before JAX 0.8
    from jax.experimental import enable_x64


def find_device(name: str) -> jax.Device:
    """The JAX device of this name; `DeviceError` where this machine lacks it."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "tpu") or not (index == "" or (kind == "cuda" and index.isdigit())):
        raise DeviceError(f"device={name!r}: the jax backend has cpu, cuda, cuda:N and tpu")
    try:
        return jax.local_devices(backend=kind)[int(index or 0)]  # of many processes' this one's
    except (RuntimeError, IndexError):
        found = ", ".join(str(device.platform) for device in jax.devices())
        raise DeviceError(f"device={name!r}: jax {jax.__version__} finds {found} here") from None


def at_work(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method on the device of its object, with float64 for what asks for it, and float32 products of float32's digits.

    By default JAX has no 64 bits, and rounds factors on GPUs and TPUs. The caller's own JAX stays as it is.
    """
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with enable_x64(True), jax.default_device(self.device), jax.default_matmul_precision("highest"):
            return method(self, *args, **kwargs)

    return call
