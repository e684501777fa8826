"""AnoFPDM: anomalies from the forward process of a diffusion model.

Che, Rafsani, Shah, Siddiquee & Wu, "AnoFPDM: Anomaly detection with forward process of diffusion models for brain
MRI", WACV 2025 Workshops (arXiv 2404.15683). Written from the paper; equation numbers are the paper's. Nothing is
ever denoised step by step: along the forward process of x_0, at every step t, x_0 is estimated once under the
condition *healthy* (guided by w) and once without a condition:

    M_t = mean (xh_t - xu_t)^2                                             (12), what the classifier would object to
    S_t = (xh_t - x_0)^2, pixelwise                                        (19)
    t_e = argmax_t M_t,  H = mean of S_t over t <= t_e                     (20, 21)
    cos between the curves mean (xh_t - x_0)^2 and mean (xu_t - x_0)^2     (18), low where the slice is anomalous
    Q   = quantile of H at .98 - .08 M_{t_e} / M_max                       Algorithm 1; anomalous where H >= Q

Every slice has its own t_e, cosine and Q. The sums run along the path, so memory does not depend on its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Generator, Tensor

from DISYRECore.corruption.diffusion import (
    HEALTHY,
    NULL,
    STEPS,
    add_noise,
    advance,
    estimate,
    guided,
    to_signed,
    to_unsigned,
)
from DISYRECore.errors import DisyreError
from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.slicewise import FRAME_PIXELS, decide, frame, large_regions

SCHEDULE = "linear"
FORWARD_STEPS = 600
"""Length of the published forward path."""

STRIDES = 30
"""Steps of it that are walked."""

LEVELS = (0.90, 0.98)
SMALLEST_PIXELS = 41
"""Of 128 x 128: what a connected region needs to be a finding."""

ENCODINGS, REFERENCES, SCORES = ("ddim", "ddpm"), ("null", "cond"), ("dynamic", "residual")
MAPS = ("mean", "peak", "difference")


@dataclass
class Walk:
    """What is kept of a forward path for each of Z slices; see the module's equations.

    Attributes:
        x: (Z, Y, X) in [-1, 1].
        healthy, products, free: (Z,) sums over the path of the squares of the guided error curve, of its product
            with the unguided one, and of the squares of the unguided one.
        total: (Z, Y, X) sum of S_t, or of what else is mapped, so far.
        divergence: (Z,) highest M_t so far.
        step: (Z,) its step t_e.
        map: (Z, Y, X) H at t_e.
        restored: (Z, Y, X) guided estimate at t_e.
        visited: Steps so far.
    """

    x: Tensor
    healthy: Tensor
    products: Tensor
    free: Tensor
    total: Tensor
    divergence: Tensor
    step: Tensor
    map: Tensor
    restored: Tensor
    visited: int = 0

    @property
    def cosine(self) -> Tensor:
        """Cosine similarity of the error curves, (Z,); 1 where both vanish."""
        norm = (self.healthy * self.free).sqrt()
        return torch.where(norm > 0, self.products / norm.clamp(min=1e-30), torch.ones_like(norm))


def start_walk(x: Tensor) -> Walk:
    """Nothing seen yet of slices (Z, Y, X) in [-1, 1]."""
    zeros, blank = x.new_zeros(len(x), dtype=torch.float64), torch.zeros_like(x)
    lowest, step = x.new_full((len(x),), -1.0), x.new_zeros(len(x), dtype=torch.long)
    return Walk(x, zeros, zeros.clone(), zeros.clone(), blank, lowest, step, blank, x)


def observe(
    walk: Walk, step: int, healthy: Tensor, free: Tensor, *, inclusive: bool = True, kind: str = "mean"
) -> None:
    """Adds a step to a walk, in place.

    Args:
        walk: Changed.
        step: t.
        healthy, free: (Z, Y, X), guided and unguided estimates of x_0 at t.
        inclusive: Whether H includes S_{t_e}, as in the paper; the released code stops one step before.
        kind: Of the map, one of `MAPS`, see `anofpdm`.
    """
    squares = (healthy - walk.x).square()
    mean_healthy, mean_free = (v.double().flatten(1).mean(1) for v in (squares, (free - walk.x).square()))
    walk.healthy += mean_healthy.square()
    walk.products += mean_healthy * mean_free
    walk.free += mean_free.square()
    apart = (healthy - free).square()
    divergence, mapped = apart.flatten(1).mean(1), apart if kind == "difference" else squares
    before, visited = walk.total, walk.visited
    walk.total, walk.visited = walk.total + mapped, walk.visited + 1
    mean = walk.total / walk.visited if inclusive or visited == 0 else before / visited
    rises = divergence > walk.divergence
    walk.divergence = torch.where(rises, divergence, walk.divergence)
    walk.step = torch.where(rises, step, walk.step)
    walk.map = torch.where(rises.view(-1, 1, 1), mapped if kind == "peak" else mean, walk.map)
    walk.restored = torch.where(rises.view(-1, 1, 1), healthy, walk.restored)


def path(steps: int, length: int = FORWARD_STEPS) -> list[int]:
    """`steps` equally spaced steps of a forward path, first and last included.

    Raises:
        DisyreError: Fewer than 2 or more than there are, or a path beyond the schedule.
    """
    if not 2 <= steps <= length <= STEPS:
        raise DisyreError(f"AnoFPDM cannot take {steps} steps of {length}; choose 2 to {min(length, STEPS)}.")
    return np.linspace(0, length - 1, steps).round().astype(int).tolist()


def forward(
    predict: Restore, x: Tensor, steps: list[int], encoding: str = "ddim", seed: int = 0
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Walks the forward process of slices (Z, Y, X) in [-1, 1]; two network evaluations a step.

    DDIM encoding (4) moves along the unguided estimates; DDPM encoding (2) draws fresh noise at every step.

    Yields:
        t, x_t, the noise under the condition healthy, the noise without a condition.
    """
    generator = Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x.device)

    x_t = add_noise(x, noise(), steps[0], SCHEDULE)
    for t, following in zip(steps, [*steps[1:], None], strict=True):
        conditional, free = (predict(x_t, t, condition)[0] for condition in (HEALTHY, NULL))
        yield t, x_t, conditional, free
        if following is None:
            return
        if encoding == "ddim":
            x_t = advance(x_t, estimate(x_t, free, t, SCHEDULE), t, following, SCHEDULE)
        else:
            x_t = add_noise(x, noise(), following, SCHEDULE)


def quantile_levels(divergence: Tensor, largest: float, levels: tuple[float, float] = LEVELS) -> Tensor:
    """Algorithm 1: from levels[1] where M = 0 down to levels[0] where M is `largest` or more, in 100 equal steps.

    Raises:
        DisyreError: Levels that select nothing or everything, or no largest divergence.
    """
    low, high = levels
    if not 0 < low <= high < 1:
        raise DisyreError(f"Quantile levels from {low} to {high} select nothing; give 0 < low <= high < 1.")
    if not largest > 0:
        raise DisyreError("The largest divergence must be above 0; validate the model again.")
    share = ((divergence / largest).clamp(0, 1) * 100).round() / 100
    return high - (high - low) * share


def slice_quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """The quantile of each slice (Z, Y, X) at its own level, (Z,); linear between pixels."""
    ordered = values.flatten(1).sort(1).values
    place = levels.to(values.dtype) * (ordered.shape[1] - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=ordered.shape[1] - 1)
    below, above = (ordered.gather(1, index[:, None])[:, 0] for index in (low, high))
    return torch.lerp(below, above, place - low)


def median_in_plane(values: Tensor, size: int) -> Tensor:
    """A median filter of `size` x `size` pixels with reflected borders on each slice."""
    return torch.from_numpy(ndimage.median_filter(values.cpu().numpy(), (1, size, size), mode="reflect"))


def anofpdm(
    predict: Restore,
    x: Tensor,
    mask: Tensor,
    *,
    guidance: float = 2.0,
    largest_divergence: float = 0.05,
    cosine_threshold: float = 1.0,
    steps: int = STRIDES,
    length: int = FORWARD_STEPS,
    faithful: bool = False,
    encoding: str = "ddim",
    reference: str = "null",
    map: str = "mean",  # noqa: A002
    inclusive: bool = True,
    levels: tuple[float, float] = LEVELS,
    median: int = 5,
    shape: tuple[int, int] | None = None,
    score: str = "dynamic",
    seed: int = 0,
) -> Restoration:
    """Aggregated squared change towards healthy along the forward process; see the module's equations.

    Args:
        predict: Noise of (Z, Y, X) at a step under a condition.
        x: (Z, Y, X) in [0, 1].
        mask: (Z, Y, X) bool.
        guidance: w; published 2 (BraTS), 30 (ATLAS).
        largest_divergence, cosine_threshold: M_max, and the cosine above which a slice is healthy; from validation
            (published for BraTS .0509 and .99488, of the released code). At the default no slice is.
        steps: Of the strided path.
        length: Of the whole path.
        faithful: Walk the whole path instead of strides.
        encoding: ``ddim`` or ``ddpm``.
        reference: ``null`` for estimates without condition, ``cond`` for conditional unguided ones as in the
            released code, which its constants belong to.
        map: ``mean`` for H, ``peak`` for S_{t_e} alone; ``difference``, not of the paper, for the mean of
            (xh_t - xu_t)^2 over t <= t_e, to which the blur of one-step estimates adds nothing.
        inclusive: See `observe`.
        levels: See `quantile_levels`.
        median: Side of the median filter, in pixels.
        shape: (Y, X) of the slices that the model was trained on; smaller ones are padded.
        score: ``dynamic`` for .5 H / Q, so that .5 is each slice's own threshold, in slices that are not healthy
            and regions that are not too small, and below .5 elsewhere; ``residual`` for H.
        seed: Of the noise.

    Raises:
        DisyreError: A setting that does not exist.
    """
    _check(encoding=(encoding, ENCODINGS), reference=(reference, REFERENCES), map=(map, MAPS), score=(score, SCORES))
    wide, place = frame(to_signed(x), shape)
    walk = start_walk(wide)
    for t, x_t, conditional, free in forward(
        predict, wide, path(length if faithful else steps, length), encoding, seed
    ):
        healthy = estimate(x_t, guided(conditional, free, guidance), t, SCHEDULE)
        unguided = estimate(x_t, free if reference == "null" else conditional, t, SCHEDULE)
        observe(walk, t, healthy, unguided, inclusive=inclusive, kind=map)
    made = median_in_plane(walk.map, median)
    if score == "dynamic":
        made = dynamic(walk, made, quantile_levels(walk.divergence, largest_divergence, levels), cosine_threshold)
    return Restoration(place.back(made) * mask, to_unsigned(place.back(walk.restored)) * mask)


def dynamic(walk: Walk, filtered: Tensor, levels: Tensor, cosine_threshold: float) -> Tensor:
    """The score `dynamic` of slices, see `anofpdm`.

    Args:
        walk: At its end.
        filtered: (Z, Y, X), its map after the median filter; the quantile is that of the map before.
        levels: (Z,), see `quantile_levels`.
        cosine_threshold: Slices whose cosine is higher have no findings.
    """
    cut = slice_quantiles(walk.map, levels).view(-1, 1, 1)
    sick = (walk.cosine <= cosine_threshold).view(-1, 1, 1)
    marked = without_specks((filtered >= cut) & sick & (filtered > 0))
    return decide(filtered / cut.clamp(min=1e-12), marked)


def without_specks(marked: Tensor) -> Tensor:
    """A mask (Z, Y, X) without regions of fewer than `SMALLEST_PIXELS` of a slice."""
    return large_regions(marked, SMALLEST_PIXELS * marked[0].numel() / FRAME_PIXELS, diagonal=True)


def _check(**chosen: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in chosen.items():
        if value not in known:
            raise DisyreError(f"AnoFPDM has no {name} '{value}'; choose one of {', '.join(known)}.")


def _evaluations(settings: Mapping[str, Any]) -> int:
    whole = settings.get("faithful", False)
    return 2 * int(settings.get("length", FORWARD_STEPS) if whole else settings.get("steps", STRIDES))


SPEC = MethodSpec("anofpdm", "forward process of a labelled diffusion model", anofpdm, "anofpdm", _evaluations)
