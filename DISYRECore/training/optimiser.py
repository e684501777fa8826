"""Optimisers: AdamW, or Muon for the hidden convolutions beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from DISYRECore.training.config import TrainingConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic iteration (Jordan et al. 2024)."""

ITERATIONS, MOMENTUM, UPDATE = 5, 0.95, 0.2
"""Iterations; decay of the momentum; root mean square of an update of learning rate 1, about that of AdamW."""


def orthogonalised(gradient: Tensor) -> Tensor:
    """About U V^T of a matrix G = U S V^T (rows, columns), by Newton-Schulz iterations.

    X <- a X + b (X X^T) X + c (X X^T)^2 X,    X_0 = G / ||G||
    """
    a, b, c = COEFFICIENTS
    x = gradient / (gradient.norm() + 1e-7)
    is_tall = x.shape[0] > x.shape[1]
    x = x.mT if is_tall else x
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


class Muon(Optimizer):
    """Steps of about equal size in all directions of a kernel's matrix (out, in * height * width).

        B_t = mu B_{t-1} + G_t,    W <- (1 - eta lambda) W - eta 0.2 sqrt(max(rows, columns)) O(G_t + mu B_t)

    O is `orthogonalised`. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the factor,
    with which learning rates are those of AdamW, is from Liu et al., "Muon is scalable for LLM training", 2025, eq. 4.
    """

    def __init__(self, kernels: Iterable[Tensor], weight_decay: float) -> None:
        super().__init__(kernels, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with the gradients that the kernels hold."""
        for group in self.param_groups:
            rate, shrunk = group["lr"], 1 - group["lr"] * group["weight_decay"]
            for kernel in group["params"]:
                if "momentum" not in self.state[kernel]:
                    self.state[kernel]["momentum"] = torch.zeros_like(kernel)
                momentum = self.state[kernel]["momentum"].mul_(MOMENTUM).add_(kernel.grad)
                matrix = (kernel.grad + MOMENTUM * momentum).flatten(1)
                update = orthogonalised(matrix).view_as(kernel)
                kernel.mul_(shrunk).add_(update, alpha=-rate * UPDATE * max(matrix.shape) ** 0.5)


def make_optimisers(network: nn.Module, config: TrainingConfig[Any]) -> list[Optimizer]:
    """The optimisers of a run, which share its parameters; the first and the last convolution are not hidden."""
    parameters = list(network.parameters())
    kernels = [one for one in parameters if one.ndim > 2][1:-1] if config.optimiser == "muon" else []
    hidden = {id(one) for one in kernels}
    rest = [one for one in parameters if id(one) not in hidden]
    adamw = AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    return [adamw, Muon(kernels, config.weight_decay)] if kernels else [adamw]
