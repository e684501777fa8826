"""A volume for the module's own test: no anatomy, but a known answer in a second."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

SIZE, SPACING_MM = 64, 2.5
RADIUS_MM, SPHERE_MM = 62.0, 10.0
CENTRE_RAS = (-30.0, 12.0, 18.0)


def ball_with_sphere() -> slicer.vtkMRMLScalarVolumeNode:
    """Adds a ball of noisy tissue of a brain's size on 0, with one bright sphere left of the middle."""
    place = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    s, a, r = np.meshgrid(place, place, place, indexing="ij")
    tissue = 100 + np.random.default_rng(0).normal(0, 5, s.shape)
    sphere = np.linalg.norm([r - CENTRE_RAS[0], a - CENTRE_RAS[1], s - CENTRE_RAS[2]], axis=0) < SPHERE_MM
    voxels = np.where(sphere, 200, tissue) * (r**2 + a**2 + s**2 < RADIUS_MM**2)
    volume = slicer.util.addVolumeFromArray(voxels.astype(np.float32), name="Ball")
    matrix = vtk.vtkMatrix4x4()
    for axis in range(3):
        matrix.SetElement(axis, axis, SPACING_MM)
        matrix.SetElement(axis, 3, place[0])
    volume.SetIJKToRASMatrix(matrix)
    return volume
