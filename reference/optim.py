"""One optimiser step in float64: gradient clipping, Adam, the moving average of weights. `OptimConfig` has the rate of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .config import OptimConfig

Arrays = Mapping[str, np.ndarray]


def clip_scale(config: OptimConfig, gradients: Arrays) -> float:
    """Factor that brings the global norm down to `max_grad_norm`; the 1e-6 is torch's `clip_grad_norm_`'s."""
    if config.max_grad_norm == 0:
        return 1.0
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
    return min(1.0, config.max_grad_norm / (norm + 1e-6))


def updated(config: OptimConfig, step: int, w: np.ndarray, m: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A parameter after step 0, 1, .. from its moments after that step: the last lines of Adam's algorithm 1."""
    m_hat, v_hat = m / (1 - config.beta1 ** (step + 1)), v / (1 - config.beta2 ** (step + 1))
    return w - config.learning_rate(step) * m_hat / (np.sqrt(v_hat) + config.eps)


def adam_step(config: OptimConfig, step: int, weights: Arrays, gradients: Arrays, m: Arrays, v: Arrays, ema: Arrays
              ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, m, v, ema) after step 0, 1, .. (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; eps outside the root)."""
    scale, decay = clip_scale(config, gradients), config.ema_decay_at(step)
    new_w, new_m, new_v, new_ema = {}, {}, {}, {}
    for name, w in weights.items():
        g = gradients[name] * scale
        new_m[name] = config.beta1 * m[name] + (1 - config.beta1) * g
        new_v[name] = config.beta2 * v[name] + (1 - config.beta2) * g**2
        new_w[name] = updated(config, step, w, new_m[name], new_v[name])
        new_ema[name] = decay * ema[name] + (1 - decay) * new_w[name]
    return new_w, new_m, new_v, new_ema
