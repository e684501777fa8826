"""Windows about anomalies: small ones are made in a piece of the slab, which costs less than the whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from DISYRECore.corruption.shapes import ShapeParameters, reach_mm


@dataclass(frozen=True)
class Window:
    """The same piece of the plane, at another place in each of B slabs: all that an anomaly can reach.

    Attributes:
        corner: (B, 2) first row and column.
        size: Rows and columns.
        whole: Rows and columns of the slabs.
    """

    corner: Tensor
    size: tuple[int, int]
    whole: tuple[int, int]

    def of(self, who: Tensor, depth: int) -> tuple[Tensor, ...]:
        """Index of the windows in slabs, of which B take part."""
        if self.size == self.whole:
            return (who,)
        z = torch.arange(depth, device=who.device)
        y, x = (self.corner[:, i, None] + torch.arange(n, device=who.device) for i, n in enumerate(self.size))
        return who[:, None, None, None], z[:, None, None], y[:, None, :, None], x[:, None, None, :]

    def centred(self, shape: ShapeParameters, spacing_mm: float) -> ShapeParameters:
        """Shapes with centres relative to the middle of the window instead of that of the slab."""
        size, whole = (torch.tensor(n, device=self.corner.device) for n in (self.size, self.whole))
        moved_mm = (self.corner + (size - whole) / 2) * spacing_mm
        return replace(shape, centre=torch.cat([shape.centre[:, :1], shape.centre[:, 1:] - moved_mm], 1))

    def grid(self, motion: Tensor) -> Tensor:
        """`F.affine_grid` of maps (B, 2, 3) of the whole plane, of the window alone; (B, rows, columns, 2)."""
        y, x = (
            (2 * (self.corner[:, i, None] + torch.arange(n, device=motion.device)) + 1) / all_ - 1
            for i, (n, all_) in enumerate(zip(self.size, self.whole, strict=True))
        )
        place = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
        return torch.einsum("bij,bhwj->bhwi", motion[:, :, :2], place) + motion[:, None, None, :, 2]


def window_around(shape: ShapeParameters, whole: tuple[int, int], spacing_mm: float) -> Window:
    """The window that holds each of B shapes and what `bias_mask` looks at around them."""
    half = int(reach_mm(shape).amax() / spacing_mm) + 4
    size = min(2 * half, whole[0]), min(2 * half, whole[1])
    ends = torch.tensor(whole, device=shape.centre.device)
    middle = shape.centre[:, 1:] / spacing_mm + (ends - 1) / 2
    last = ends - torch.tensor(size, device=ends.device)
    return Window(torch.minimum((middle.round().long() - half).clamp(min=0), last), size, whole)
