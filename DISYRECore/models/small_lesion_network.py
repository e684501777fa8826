"""Small anomalies: what the neighbourhood of every voxel says, read by a few perceptrons one after the other.

The restoration network looks at whole slices and finds what is large. A plaque of a few voxels is a blob that ends
above and below, where a cut sulcus goes on: `Neighbourhoods` tells the two apart. From the second look on, a
perceptron is also given what the one before says of the surroundings and of the mirrored place, since healthy oddities
are many and symmetrical (auto-context; Tu and Bai, IEEE Transactions on Pattern Analysis and Machine Intelligence
2010).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DISYRECore.corruption.blur import blur_volume
from DISYRECore.errors import DisyreError
from DISYRECore.models.hessian_features import COUNT, FINER_LEVEL, WIDER_LEVEL, halve, hessian_features

ROOM = 4
"""Voxels around the box of the brain."""

STRIDE = 4
"""Sides are multiples of this: the grid is halved twice."""

UNSEEN = -12.0
"""Logit outside the brain."""

USUAL_LOGIT = -4.0
"""Of fresh perceptrons: anomalies are rare."""

NEAR, FAR = (3, 5), (8, 14)
"""Radii, in voxels, of the rings on which finer and coarser levels are read."""

SURE, UNIT = (-8.0, 6.0), 3.0
"""Logits of the look before are told apart between these, and counted in steps of this."""

OPINION_RINGS = (3, 6)
UPPER = (0.9, 0.99)
"""Quantiles of an opinion in the brain, which tell how odd the scan is as a whole."""

CHUNK = 100_000
"""Voxels at a time."""

Box = tuple[slice, slice, slice]


def _ring(radius: int) -> list[tuple[int, ...]]:
    """Offsets of about a radius towards the six faces and the eight corners of a cube."""
    steps = (-1, 0, 1)
    towards = [(z, y, x) for z in steps for y in steps for x in steps if abs(z) + abs(y) + abs(x) in (1, 3)]
    return [tuple(round(radius * step / math.hypot(*way)) for step in way) for way in towards]


_NEAR_RINGS, _FAR_RINGS, _OPINION_RINGS = (
    torch.tensor([offset for radius in radii for offset in _ring(radius)]) for radii in (NEAR, FAR, OPINION_RINGS)
)
FEATURES = 3 * COUNT + len(_NEAR_RINGS) + len(_FAR_RINGS) + 2 + 3
"""Numbers that `Neighbourhoods` has of a voxel."""

OPINIONS = 7 + len(_OPINION_RINGS) + 2 + len(UPPER)
"""Numbers that `Opinions` has of a voxel."""


@dataclass(frozen=True)
class Cut:
    """A brain cut out of its volume with some room around it.

    Attributes:
        image: (Z, Y, X) in [0, 1].
        mask: (Z, Y, X) bool.
        box: Where the brain was in the volume; `ROOM` voxels from the first corner of the cut.
    """

    image: Tensor
    mask: Tensor
    box: Box

    @property
    def voxels(self) -> Tensor:
        """Places of the voxels of the brain, (N, 3)."""
        return self.mask.nonzero()

    def mirrored(self, voxels: Tensor) -> Tensor:
        """The places on the other side of the middle of the box, (N, 3)."""
        side = self.box[2].stop - self.box[2].start
        x = (2 * ROOM + side - 1 - voxels[:, 2]).clamp(0, self.mask.shape[2] - 1)
        return torch.cat([voxels[:, :2], x[:, None]], 1)


def brain_box(mask: Tensor) -> Box:
    """The smallest box that holds a mask (Z, Y, X)."""
    places = mask.nonzero()
    z, y, x = (slice(a, b + 1) for a, b in zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True))
    return z, y, x


def cut_out(volume: Tensor, box: Box) -> Tensor:
    """A box of a volume with at least `ROOM` around it, 0 there; its sides are multiples of `STRIDE`."""
    part = volume[box]
    room = [side for n in reversed(part.shape) for side in (ROOM, ROOM + -(n + 2 * ROOM) % STRIDE)]
    return F.pad(part, room)


class Neighbourhoods:
    """What is known of the neighbourhood of every voxel of a brain."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        twice = halve(cut.image, cut.mask)
        fourfold = halve(*twice)
        self.grids = [hessian_features(cut.image, cut.mask), hessian_features(*twice), hessian_features(*fourfold)]
        self.near, self.far = self.grids[0][WIDER_LEVEL], _finer(self.grids[1][FINER_LEVEL])
        self.wide = _finer(_finer(self.grids[2][FINER_LEVEL]))

    def of(self, voxels: Tensor) -> Tensor:
        """Numbers of voxels (N, 3) of the cut, (N, `FEATURES`).

        The `invariants` at the spacing of the grid and at two and four times it; levels on `NEAR` and `FAR` rings;
        levels at the mirrored place; and the place in the box of the brain, -1 to 1, left and right alike.
        """
        cut, known = self.cut, [self.grids[0][:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T]
        shape = torch.tensor(cut.mask.shape, device=voxels.device)
        share = (2 * (voxels + 0.5) / shape - 1).flip(1)[None, None, None]
        for grid in self.grids[1:]:
            seen = F.grid_sample(grid[None], share, align_corners=False, padding_mode="border")
            known.append(seen[0, :, 0, 0].T)
        known += [_around(self.near, voxels, _NEAR_RINGS), _around(self.far, voxels, _FAR_RINGS)]
        other = cut.mirrored(voxels).unbind(1)
        known.append(torch.stack([self.far[other], self.wide[other]], 1))
        sides = torch.tensor([side.stop - side.start for side in cut.box], device=voxels.device)
        place = 2 * (voxels + 0.5 - ROOM) / sides - 1
        known.append(torch.cat([place[:, :2], 2 * place[:, 2:].abs() - 1], 1))
        return torch.cat(known, 1)


class Opinions:
    """What the look before, a logit (Z, Y, X), says of the surroundings of every voxel."""

    def __init__(self, logit: Tensor, cut: Cut) -> None:
        self.cut = cut
        self.own = (logit.clamp(*SURE) - SURE[0]) / UNIT * cut.mask
        twice = halve(self.own, cut.mask)
        fourfold = halve(*twice)
        self.means = [blur_volume(self.own, 1.0), blur_volume(self.own, 2.0)]
        self.means += [
            _finer(blur_volume(twice[0] * twice[1], 2.0)),
            _finer(_finer(blur_volume(fourfold[0] * fourfold[1], 2.0))),
        ]
        self.most = [_largest(self.own, 1), _largest(self.own, 3)]
        values = self.own[cut.mask]
        self.whole = torch.stack([values.kthvalue(max(1, int(share * len(values)))).values for share in UPPER])

    def of(self, voxels: Tensor) -> Tensor:
        """Numbers of voxels (N, 3) of the cut, (N, `OPINIONS`).

        The opinion itself; its means over four neighbourhoods and its largest values within one and three voxels;
        means on rings; both at the mirrored place; quantiles in the brain.
        """
        here, there = voxels.unbind(1), self.cut.mirrored(voxels).unbind(1)
        known = [torch.stack([one[here] for one in (self.own, *self.means, *self.most)], 1)]
        known.append(_around(self.means[0], voxels, _OPINION_RINGS))
        known.append(torch.stack([self.most[1][there], self.means[2][there]], 1))
        return torch.cat([*known, self.whole.expand(len(voxels), -1)], 1)


def _finer(volume: Tensor) -> Tensor:
    """(Z, Y, X) on a grid of half the spacing, every voxel eight times."""
    for axis in range(3):
        volume = volume.repeat_interleave(2, axis)
    return volume


def _largest(volume: Tensor, reach: int) -> Tensor:
    """The largest value in the cube of `reach` voxels around each voxel, (Z, Y, X); axis after axis."""
    found = volume[None, None]
    for axis in range(3):
        side, room = [1, 1, 1], [0, 0, 0]
        side[axis], room[axis] = 2 * reach + 1, reach
        found = F.max_pool3d(found, side, stride=1, padding=room)
    return found[0, 0]


def _around(volume: Tensor, voxels: Tensor, offsets: Tensor) -> Tensor:
    """Values at offsets (K, 3) from voxels (N, 3), 0 beyond the ends, (N, K)."""
    end = torch.tensor(volume.shape, device=voxels.device) - 1
    values = []
    for offset in offsets.to(voxels.device):
        place = voxels + offset
        inside = torch.minimum(place.clamp(min=0), end)
        values.append(volume[inside.unbind(1)] * (inside == place).all(1))
    return torch.stack(values, 1)


@dataclass(frozen=True)
class SmallLesionSettings:
    """What defines a network for small anomalies.

    Attributes:
        widths: Of the two hidden layers of each perceptron.
        stages: How many perceptrons there are.
        contrasts: Contrasts that it knows, in the order of its tables.
    """

    widths: tuple[int, int] = (72, 36)
    stages: int = 3
    contrasts: tuple[str, ...] = ("T1", "T2")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        lists = {"widths": list(self.widths), "contrasts": list(self.contrasts)}
        return {"kind": "small-lesions", **asdict(self), **lists}


class Perceptron(nn.Module):
    """Logit of an anomaly from the numbers of a voxel and the contrast of its scan.

    The numbers are brought to mean 0 and standard deviation 1 first, see `adapt`.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, numbers: int, widths: tuple[int, int], contrasts: int) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))
        self.contrast = nn.Embedding(contrasts, widths[0])
        self.one, self.two = nn.Linear(numbers, widths[0]), nn.Linear(*widths)
        self.last = nn.Linear(widths[1], 1)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, USUAL_LOGIT)

    def adapt(self, numbers: Tensor) -> None:
        """Takes mean and standard deviation from examples (N, numbers)."""
        self.middle.copy_(numbers.float().mean(0))
        self.spread.copy_(numbers.float().std(0) + 0.02)

    def forward(self, numbers: Tensor, contrast: Tensor) -> Tensor:
        """Numbers (N, C) and indices of contrasts (N,) to logits (N,)."""
        weight = self.one.weight / self.spread
        hidden = F.linear(numbers.float(), weight, self.one.bias - weight @ self.middle)
        hidden = F.silu(hidden + self.contrast(contrast))
        logit: Tensor = self.last(F.silu(self.two(hidden)))[:, 0]
        return logit


class SmallLesionNetwork(nn.Module):
    """One perceptron for each look at a brain; from the second on they are given `Opinions` of the one before."""

    def __init__(self, settings: SmallLesionSettings) -> None:
        super().__init__()
        self.settings = settings
        numbers = [FEATURES] + [FEATURES + OPINIONS] * (settings.stages - 1)
        count = len(settings.contrasts)
        self.stages = nn.ModuleList(Perceptron(n, settings.widths, count) for n in numbers)

    @torch.inference_mode()
    def forward(self, around: Neighbourhoods, contrast: int, stages: int | None = None) -> Tensor:
        """Marks small anomalies.

        Args:
            around: Of the brain.
            contrast: Index into the contrasts of the settings.
            stages: How many to take; all when None.

        Returns:
            Logit (Z, Y, X), `UNSEEN` outside the brain.
        """
        cut, voxels = around.cut, around.cut.voxels.split(CHUNK)
        numbers = [around.of(some) for some in voxels]
        contrasts = [torch.full((len(some),), contrast, device=some.device) for some in voxels]
        logit = _placed(cut, list(map(self.stages[0], numbers, contrasts)))
        for stage in self.stages[1:stages]:
            opinions = Opinions(logit, cut)
            fuller = (torch.cat([own, opinions.of(some)], 1) for own, some in zip(numbers, voxels, strict=True))
            logit = _placed(cut, list(map(stage, fuller, contrasts)))
        return logit

    def mark(self, x: Tensor, mask: Tensor, contrast: str) -> Tensor:
        """Logit of small lesions in a brain.

        Args:
            x: (Z, Y, X) in [0, 1], normalised as `prepare` does.
            mask: (Z, Y, X) bool, the brain.
            contrast: One that the network knows.

        Returns:
            (Z, Y, X) on the device of `x`, `UNSEEN` outside the brain.
        """
        logit = torch.full_like(x, UNSEEN)
        if not mask.any():
            return logit
        device, box = next(self.parameters()).device, brain_box(mask)
        cut = Cut(cut_out(x, box).to(device), cut_out(mask, box).to(device), box)
        inner = tuple(slice(ROOM, ROOM + side.stop - side.start) for side in box)
        logit[box] = self(Neighbourhoods(cut), self.settings.contrasts.index(contrast))[inner].to(x.device)
        return logit


def _placed(cut: Cut, logits: list[Tensor]) -> Tensor:
    """Logits of the voxels of a brain as (Z, Y, X)."""
    logit = torch.full(cut.mask.shape, UNSEEN, device=cut.mask.device)
    logit[cut.mask] = torch.cat(logits)
    return logit


def build(values: Mapping[str, Any]) -> SmallLesionNetwork:
    """A fresh network, see `models.registry`.

    Raises:
        DisyreError: Settings that are not understood.
    """
    try:
        listed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return SmallLesionNetwork(SmallLesionSettings(**listed))
    except TypeError as error:
        raise DisyreError(f"The settings of the small-lesion detector are not understood: {error}.") from error
