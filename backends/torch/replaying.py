"""Sampling on CUDA as graphs: a step is started by one launch, in place of one for each of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from reference.conventions import Plan
from reference.solver_plans import SolverPlan

from .compiling import Graph
from .samplers import Coefficients, step
from .solving import solve

MOST = 8  # graphs kept at a time: of shapes, of rules of clipping, with noise and without
Output = Callable[[Tensor, Tensor, list[Tensor]], Tensor]  # of x, the last x0_hat and the time shifts of one step


class Replay:
    """The steps of one path. What differs between steps and plans is an input of the graph: x, x0_hat, the time shifts, the row of
    coefficients and z. So a graph serves all plans of one rule, and `graphs` keeps it for the next path."""

    def __init__(self, output: Output, shifts: list[Tensor], graphs: dict[Hashable, Graph], key: Hashable) -> None:
        """`shifts` are those of all steps, (S, width) each; `key` names what `output` computes."""
        self.output, self.graphs, self.key = output, graphs, key
        self.shifts, self.widths = torch.cat(shifts, dim=1), [shift.shape[1] for shift in shifts]

    def path(self, x: Tensor, plan: Plan | SolverPlan, c: Coefficients, noise: Callable[[int], Tensor] | None,
             on_step: Callable[[int], None] | None) -> Tensor:
        """What `samplers.sample` and `solving.solve` give, bit for bit. A solver's rows differ in what they read, so that its
        graph is of the network alone."""
        def network(x: Tensor, k: int, x0: Tensor) -> Tensor:
            return self._replay((x.shape,), self._output, x, x0, self.shifts[k:k + 1])

        if isinstance(plan, SolverPlan):
            return solve(network, x, plan, c, noise, on_step)
        return self._sample(x, plan, c, noise, on_step)

    def _sample(self, x: Tensor, plan: Plan, c: Coefficients, noise: Callable[[int], Tensor] | None,
                on_step: Callable[[int], None] | None) -> Tensor:
        """`samplers.sample` with the network and the update in one graph."""
        rows = torch.stack(tuple(c.values()), dim=1).to(x.device, x.dtype)  # (S, names): a graph reads no number of the host

        def whole(x: Tensor, x0: Tensor, shifts: Tensor, row: Tensor, z: Tensor | None) -> Tensor:
            return torch.stack(step(x, self._output(x, x0, shifts), 0, plan, z, dict(zip(c, row.T, strict=True))))

        rule = (x.shape, plan.clip, plan.clip_range, plan.threshold_ratio, plan.sample_max, plan.learned)
        x0 = torch.zeros_like(x)
        for i in range(plan.steps):
            z = noise(i) if noise is not None and plan.needs_noise and plan.noise_gate[i] else None
            x, x0 = self._replay((*rule, z is None), whole, x, x0, self.shifts[i:i + 1], rows[i:i + 1], z)
            if on_step is not None:
                on_step(i)
        return x

    def _output(self, x: Tensor, x0: Tensor, shifts: Tensor) -> Tensor:
        return self.output(x, x0, list(shifts.split(self.widths, dim=1)))

    def _replay(self, rule: tuple[Hashable, ...], function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """The function's result by its graph, which is recorded where there is none yet."""
        if (key := (self.key, *rule)) not in self.graphs:
            if len(self.graphs) == MOST:
                del self.graphs[next(iter(self.graphs))]
            self.graphs[key] = Graph(function, inputs)
        return self.graphs[key](*inputs)
