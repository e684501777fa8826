"""Square crops of training slices: cheaper steps, of which half hold an anomaly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from DISYRECore.training.tasks.base.batches import Batch

OWN_STREAM = 7919
"""Added to the seed, so that places of crops do not follow from the draws of the anomalies."""


class Batches(Protocol):
    """Where slices come from: label maps or scans."""

    def make(self, count: int, seed: int) -> Batch:
        """A batch of `count` slices; the same seed gives the same batch."""


def make_crops(slices: Batches, count: int, seed: int, side: int | None) -> Batch:
    """A batch of `count` slices, or of crops of slices, two of each: one around an anomaly, one anywhere in the brain.

    Args:
        slices: Where they come from.
        count: Of slices or crops.
        seed: The same gives the same batch.
        side: Of the crops, in pixels; None for whole slices.
    """
    if side is None:
        return slices.make(count, seed)
    whole = slices.make(math.ceil(count / 2), seed)
    generator = Generator(whole.mask.device).manual_seed(seed + OWN_STREAM)
    has_anomaly = whole.region.flatten(1).any(1)[:, None, None]
    around = crop(whole, torch.where(has_anomaly, whole.region, whole.mask), side, generator)
    anywhere = crop(whole, whole.mask, side, generator)
    both = {name: torch.cat([value, vars(anywhere)[name]])[:count] for name, value in vars(around).items()}
    return replace(whole, **both)


def crop(batch: Batch, wanted: Tensor, side: int, generator: Generator) -> Batch:
    """One square crop of each slice, of those with a wanted pixel in them, at a random place.

    Args:
        batch: B slices of (Y, X).
        wanted: (B, Y, X) bool; all of the slice where no pixel is.
        side: In pixels, not above Y and X.
        generator: On the device of the batch.
    """
    count, height, width = wanted.shape
    none = ~wanted.flatten(1).any(1)
    chosen = torch.multinomial((wanted | none[:, None, None]).flatten(1).float(), 1, generator=generator)[:, 0]
    back = torch.randint(side, (2, count), generator=generator, device=wanted.device)
    top = (chosen // width - back[0]).clamp(0, height - side)
    left = (chosen % width - back[1]).clamp(0, width - side)
    reach = torch.arange(side, device=wanted.device)
    place = torch.arange(count, device=wanted.device)[:, None, None]
    rows, columns = (top[:, None] + reach)[:, :, None], (left[:, None] + reach)[:, None, :]

    def cut(values: Tensor) -> Tensor:
        """(B, ..., Y, X) to (B, ..., side, side)."""
        return values.movedim((-2, -1), (1, 2))[place, rows, columns].movedim((1, 2), (-2, -1)).contiguous()

    return replace(batch, **{name: cut(value) for name, value in vars(batch).items() if value.ndim > 1})
