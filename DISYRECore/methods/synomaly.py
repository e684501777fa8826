"""Synomaly: multi-stage one-step restoration by a diffusion model that was trained on noise with anomalies in it.

Bi et al., Medical Image Analysis 2025 (arXiv 2411.04004); written from the paper. With `noise.synomaly_noise` the
network learnt to take region-like changes of brightness for noise. Each stage adds pure Gaussian noise n at one step
t to the current image, estimates x_0 once, and looks where it departs from the original:

    x_t = a_t cur + s_t n;   xh = clip((x_t - s_t e(x_t, t)) / a_t)
    D   = |blur_slices(x_0) - blur_slices(xh)|;   m = D >= tau, without small regions
    cur = m xh + (1 - m) x_0                                              masked fusion

until m changes by at most 1 % or five stages are done. D of the last stage is the anomaly map. Where a contrast shows
most pathology dark (T1) or bright (T2, FLAIR), changes the other way may count less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_slices
from DISYRECore.corruption.diffusion import STEPS, add_noise, estimate, to_signed, to_unsigned
from DISYRECore.errors import DisyreError
from DISYRECore.methods.base import MethodSpec, Restoration, Restore
from DISYRECore.methods.base.score import departure_by_sign
from DISYRECore.methods.base.slicewise import FRAME_PIXELS, decide, frame, large_regions

SCHEDULE = "cosine"
STAGES, STOP = 5, 0.01
SMALLEST_PIXELS, FLOOR_PIXELS = 30, 500
"""Of 128 x 128: what a connected region needs to count, and the least that a change of the mask is measured by."""

Depart = Callable[[Tensor, Tensor, int], Tensor]
"""`departure` with its weights."""

FUSIONS, SCORES = ("binary", "soft", "off"), ("dynamic", "residual")


def synomaly(
    predict: Restore,
    x: Tensor,
    mask: Tensor,
    *,
    step: int = 150,
    kernel: int = 15,
    threshold: float = 0.2,
    fusion: str = "binary",
    fusion_kernel: int = 3,
    fusion_threshold: float = 0.1,
    bright: float = 1.0,
    dark: float = 1.0,
    stages: int = STAGES,
    samples: int = 1,
    shape: tuple[int, int] | None = None,
    score: str = "dynamic",
    seed: int = 0,
) -> Restoration:
    """The change that the last stage leaves; see the module's equations. Slices that are done are not run again.

    Args:
        predict: Noise of (Z, Y, X) at a step.
        x: (Z, Y, X) in [0, 1].
        mask: (Z, Y, X) bool.
        step: t; published 150 (brain, liver), 250 (ultrasound).
        kernel, threshold: Pixels of the blur and tau of the anomaly map, on images in [-1, 1]; published 15 and .2
            (brain), 5 and .2 (liver), 15 and .3 (ultrasound).
        fusion: ``binary`` as in the paper; ``soft`` weighs with D itself, as in the released code; ``off`` goes on
            with the estimate alone.
        fusion_kernel, fusion_threshold: The same for the mask that fuses and stops.
        bright, dark: What counts of D where the slice is brighter or darker than its estimate; 1 as published, less
            for what pathology rarely does in a contrast, see `departure`.
        stages: At most.
        samples: Noises that the estimate of a stage is the mean of, from the second stage on; 1 as published, more
            against the noise of the map, see `antithetic`. The first stage only finds what the second leaves out.
        shape: (Y, X) of the slices that the model was trained on; smaller ones are padded.
        score: ``dynamic`` for .5 D / tau, so that .5 is the threshold, with regions that are too small kept below;
            ``residual`` for D.
        seed: Of the noise.

    Raises:
        DisyreError: A setting that does not exist.
    """
    _check(step, kernel, fusion_kernel, fusion, score, stages, samples)
    wide, place = frame(to_signed(x), shape)
    depart = partial(departure, bright=bright, dark=dark)
    fusing = fusion_kernel, fusion_threshold, fusion
    restored = _restore(predict, wide, step, (stages, samples), fusing, depart, seed)
    change = depart(wide, restored, kernel)
    made = change
    if score == "dynamic":
        made = decide(change / threshold, anomalous(change, threshold))
    return Restoration(place.back(made) * mask, to_unsigned(place.back(restored)) * mask)


def _restore(
    predict: Restore,
    x: Tensor,
    step: int,
    times: tuple[int, int],
    fusing: tuple[int, float, str],
    depart: Depart,
    seed: int,
) -> Tensor:
    """The last one-step estimate of each slice (Z, Y, X) in [-1, 1]."""
    (stages, samples), (kernel, threshold, fusion) = times, fusing
    generator = Generator().manual_seed(seed)
    current, restored, before = x.clone(), x.clone(), torch.ones_like(x, dtype=torch.bool)
    going = torch.arange(len(x))
    for count in [1] + (stages - 1) * [samples]:
        estimated = torch.zeros_like(x[going])
        for noise in antithetic(x.shape, count, generator):
            x_t = add_noise(current[going], noise[going].to(x.device), step, SCHEDULE)
            estimated += estimate(x_t, predict(x_t, step)[0], step, SCHEDULE) / count
        change = depart(x[going], estimated, kernel)
        found = anomalous(change, threshold)
        restored[going], current[going] = estimated, fuse(x[going], estimated, change, found, fusion)
        moved = changes(found, before[going])
        before[going], going = found, going[moved]
        if not len(going):
            break
    return restored


def antithetic(shape: torch.Size, count: int, generator: Generator) -> Iterator[Tensor]:
    """`count` Gaussian noises, every second one the last with its sign changed: what is odd in the noise cancels."""
    for _ in range(0, count - 1, 2):
        noise = torch.randn(shape, generator=generator)
        yield noise
        yield -noise
    if count % 2:
        yield torch.randn(shape, generator=generator)


def departure(x: Tensor, restored: Tensor, kernel: int, bright: float = 1.0, dark: float = 1.0) -> Tensor:
    """D: difference of the blurred slices (Z, Y, X), weighted by its sign.

    A `kernel` of k pixels has sigma = .3 ((k - 1) / 2 - 1) + .8. The weights are an own addition, see
    `restoration.departure_by_sign`.
    """
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    return departure_by_sign(blur_slices(x - restored, sigma, kernel // 2), bright, dark)


def anomalous(change: Tensor, threshold: float) -> Tensor:
    """m: where D reaches tau, in regions that are large enough; pixels that touch at a corner only are apart."""
    return large_regions(change >= threshold, _scaled(SMALLEST_PIXELS, change), diagonal=False)


def fuse(x: Tensor, restored: Tensor, change: Tensor, found: Tensor, fusion: str) -> Tensor:
    """What the next stage starts from."""
    if fusion == "off":
        return restored
    if fusion == "binary":
        return torch.where(found, restored, x)
    weight = change * found
    return weight * restored + (1 - weight) * x


def changes(found: Tensor, before: Tensor) -> Tensor:
    """Whether the size of the mask of each slice changed by more than `STOP`, (Z,) bool."""
    now, then = (m.flatten(1).sum(1).double() for m in (found, before))
    return (now - then).abs() / then.clamp(min=_scaled(FLOOR_PIXELS, found)) > STOP


def _scaled(pixels: int, slices: Tensor) -> float:
    return pixels * slices[0].numel() / FRAME_PIXELS


def _check(step: int, kernel: int, fusion_kernel: int, fusion: str, score: str, stages: int, samples: int) -> None:
    if not 0 <= step < STEPS:
        raise DisyreError(f"Synomaly has no step {step}; choose 0 to {STEPS - 1}.")
    if min(kernel, fusion_kernel) < 1 or kernel % 2 == 0 or fusion_kernel % 2 == 0:
        raise DisyreError("The blur of Synomaly's map needs an odd number of pixels.")
    if min(stages, samples) < 1:
        raise DisyreError("Synomaly needs at least one stage and one sample.")
    for value, known in ((fusion, FUSIONS), (score, SCORES)):
        if value not in known:
            raise DisyreError(f"Synomaly has no choice '{value}'; choose one of {', '.join(known)}.")


def _evaluations(settings: Mapping[str, Any]) -> int:
    return 1 + (int(settings.get("stages", STAGES)) - 1) * int(settings.get("samples", 1))


SPEC = MethodSpec("synomaly", "multi-stage diffusion on Synomaly noise", synomaly, "synomaly", _evaluations)
