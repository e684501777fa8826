"""What the diffusion methods do slice by slice: frames, regions, and their own decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

FRAME_PIXELS = 128 * 128
"""Pixels of a slice for which the published methods state areas in pixels."""

THRESHOLD, BELOW = 0.5, 0.499
"""Where a method's own decision lies on the score `dynamic`, and the most that anything else reaches."""


@dataclass(frozen=True)
class Frame:
    """Slices brought to the field of view of training, and the way back.

    Attributes:
        before: Points added below and left of each slice; what is larger than the frame stays as it is.
        size: (Y, X) of the slices that came in.
    """

    before: tuple[int, int]
    size: tuple[int, int]

    def back(self, values: Tensor) -> Tensor:
        """(Z, Y, X) on the slices that came in."""
        y, x = self.before
        return values[:, y : y + self.size[0], x : x + self.size[1]]


def frame(x: Tensor, shape: tuple[int, int] | None, fill: float = -1.0) -> tuple[Tensor, Frame]:
    """Pads slices (Z, Y, X) evenly to at least `shape`, with `fill`."""
    height, width = x.shape[1:]
    missing = [max(0, want - have) for want, have in zip(shape or (0, 0), (height, width), strict=True)]
    (low_y, low_x), (high_y, high_x) = [m // 2 for m in missing], [m - m // 2 for m in missing]
    return F.pad(x, (low_x, high_x, low_y, high_y), value=fill), Frame((low_y, low_x), (height, width))


def large_regions(mask: Tensor, smallest: float, diagonal: bool) -> Tensor:
    """What is left of a mask (Z, Y, X) without the regions of each slice of fewer than `smallest` pixels.

    Args:
        mask: Bool.
        smallest: Pixels that a region needs.
        diagonal: Whether pixels that touch at a corner are connected.
    """
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    regions, count = ndimage.label(mask.cpu().numpy(), structure)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    return torch.from_numpy((sizes >= smallest)[regions] & (regions > 0))


def decide(relative: Tensor, kept: Tensor) -> Tensor:
    """The score `dynamic`: a map relative to the method's own threshold, so that .5 parts findings from the rest.

    Args:
        relative: 1 at the threshold.
        kept: What the method calls anomalous, bool.
    """
    score = THRESHOLD * relative
    return torch.where(kept, score.clamp(min=THRESHOLD + 1e-6), score.clamp(max=BELOW))
