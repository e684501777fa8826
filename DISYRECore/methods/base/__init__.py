"""What all methods take and give, and what a method says of itself.

A method is a pure function ``(restore, x, mask, **settings) -> Restoration``: `x` is the prepared image in [0, 1] and
`mask` where to look, both (Z, Y, X); `restore` is any callable that stands for a network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Restore = Callable[..., tuple[Tensor, "Tensor | None"]]
"""``(volume (Z, Y, X), step) -> (restored volume, logit of the anomalous region or None)``; for a diffusion method
``(noisy volume, step[, condition]) -> (noise, None)``."""


@dataclass(frozen=True)
class Restoration:
    """Outcome of a method on the model grid.

    Attributes:
        score: (Z, Y, X) anomaly score, 0 or more, 0 outside the brain.
        restored: (Z, Y, X) in [0, 1], the image restored towards healthy anatomy.
    """

    score: Tensor
    restored: Tensor


@dataclass(frozen=True)
class MethodSpec:
    """What is known of a method; command line, panel, evaluation and training read it from here.

    Attributes:
        name: As users write it.
        title: One line for people.
        run: The method.
        family: Methods of one family share their models; None for a method that needs no model.
        evaluations: How often it calls `restore` at most with these settings; for progress.
    """

    name: str
    title: str
    run: Callable[..., Restoration]
    family: str | None
    evaluations: Callable[[Mapping[str, Any]], int]

    @property
    def settings(self) -> dict[str, Any]:
        """Names and defaults of its settings."""
        parameters = inspect.signature(self.run).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
