"""Grids: where voxels lie in the world, and which way their axes run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

SAME_GRID_MM = 0.01
RIGHT_ANGLE = 1e-4
"""Cosine up to which axes are at right angles."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie in the world.

    Attributes:
        shape: Number of voxels along X, Y, Z.
        affine: (4, 4) float, voxel index to RAS mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along X, Y, Z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


# --- grids, orientation


def canonical_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Assigns the array axes to right, anterior and superior so that they agree best in sum.

    Args:
        affine: (4, 4), voxel index to RAS mm, at any angle.

    Returns:
        permutation: The array axis that runs along R, A and S.
        flips: Whether that axis runs backwards (towards L, P or I).
    """
    cosines = directions(affine).round(6)
    world = np.arange(3)
    x, y, z = max(permutations(range(3)), key=lambda axes: np.abs(cosines[world, axes]).sum())
    return (x, y, z), (bool(cosines[0, x] < 0), bool(cosines[1, y] < 0), bool(cosines[2, z] < 0))


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same shape and no voxel lies further than 0.01 mm from its counterpart."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(one.shape) - 1)
    offsets = corners @ (one.affine - other.affine)[:3, :3].T + (one.affine - other.affine)[:3, 3]
    return one.shape == other.shape and bool(np.linalg.norm(offsets, axis=1).max() <= SAME_GRID_MM)


def directions(affine: np.ndarray) -> np.ndarray:
    """Unit vectors of the array axes in RAS, the columns of (3, 3)."""
    return affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)


def upright_directions(affine: np.ndarray) -> np.ndarray:
    """As `directions`, of a sheared affine those at right angles to each other that are nearest to it."""
    axes = directions(affine)
    if np.allclose(axes.T @ axes, np.eye(3), atol=RIGHT_ANGLE):
        return axes
    left, _, right = np.linalg.svd(axes)
    return np.asarray(left @ right)


def middle(shape: tuple[int, int, int]) -> np.ndarray:
    """Index of the middle of an array, (3,)."""
    return (np.array(shape) - 1) / 2
