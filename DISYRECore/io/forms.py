"""The two forms by which a NIfTI header says where its voxels lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from DISYRECore.io.grid import SAME_GRID_MM

MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Metres, millimetres and micrometres by their code in ``xyzt_units``; without a code, millimetres."""

NO_PLACE = "The file does not say where the head lies: sides are not stated."
DIFFERENT_MM = 0.5
"""Forms that place a voxel further apart than this contradict each other."""

_FIELDS = (
    *("xyzt_units", "qform_code", "sform_code", "pixdim", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class NiftiForms:
    """qform and sform of a NIfTI header, with their codes, spacings and unit as they were read.

    Attributes:
        fields: The fields of the header that say where its voxels lie, by their names.
        affine: (4, 4) float, voxel index to RAS mm: the sform if it has a code, else the qform, else the spacing alone
            (nibabel's precedence). Flat where that has a spacing of 0, of which nibabel makes 1.
    """

    fields: Mapping[str, np.ndarray]
    affine: np.ndarray

    @classmethod
    def of(cls, header: nib.Nifti1Header, affine: np.ndarray) -> NiftiForms:
        """The forms of a header as it was read, and what nibabel makes of them, in the unit of the file."""
        fields = {name: header[name].copy() for name in _FIELDS}
        sizes = np.where((fields["sform_code"] > 0) | (fields["pixdim"][1:4] != 0), 1.0, 0.0)
        return cls(fields, np.diag([*[_mm_per_unit(header)] * 3, 1.0]) @ affine @ np.diag([*sizes, 1.0]))

    @property
    def has_place(self) -> bool:
        """Whether either form has a code; without one nobody knows where the voxels lie, nor which side is left."""
        return bool(self.fields["sform_code"] > 0 or self.fields["qform_code"] > 0)

    def are_of(self, affine: np.ndarray) -> bool:
        """Whether these are the forms of voxels that lie there."""
        return bool(np.allclose(self.affine, affine, atol=SAME_GRID_MM, rtol=0))

    def write_to(self, header: nib.Nifti1Header) -> None:
        """Writes the forms into another header, as they were read."""
        for name, value in self.fields.items():
            part = slice(0, 4) if name == "pixdim" else slice(None)
            header[name][part if value.ndim else ...] = value[part] if value.ndim else value

    def doubts(self, shape: tuple[int, int, int]) -> list[str]:
        """Sentences on what the header says twice and differently, or not at all."""
        doubts = []
        if not self.has_place:
            doubts.append(NO_PLACE)
        if (self.fields["pixdim"][1:4] < 0).any():
            doubts.append("The header has a negative voxel size, which was read as positive.")
        distance_mm = self._contradiction_mm(shape)
        if distance_mm > DIFFERENT_MM:
            doubts.append(self._contradiction(distance_mm))
        return doubts

    def _contradiction(self, distance_mm: float) -> str:
        sform, qform = self._affines()
        if not self.fields["qform_code"] > 0:
            return f"The voxel size and the sform of the header differ (up to {distance_mm:.1f} mm): the sform counts."
        mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
        sides = ", one mirroring the other: left and right are in doubt" if mirrored else ""
        return f"The header gives two positions, up to {distance_mm:.1f} mm apart{sides}; the sform was used."

    def _contradiction_mm(self, shape: tuple[int, int, int]) -> float:
        """Largest distance at the corners between the forms, or between extents where the qform has no code."""
        if not self.fields["sform_code"] > 0:
            return 0.0
        sform, qform = self._affines()
        if self.fields["qform_code"] > 0:
            corners = np.array(list(product((0, 1), repeat=3))) * (np.array(shape) - 1)
            apart = corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3]
            return float(np.linalg.norm(apart, axis=1).max())
        sizes = [np.linalg.norm(form[:3, :3], axis=0) * shape for form in (sform, qform)]
        return float(np.abs(sizes[0] - sizes[1]).max())

    def _affines(self) -> tuple[np.ndarray, np.ndarray]:
        """sform and qform in mm; NaN where the quaternion is none."""
        header = nib.Nifti1Header()
        self.write_to(header)
        header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
        header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
        unit = np.diag([*[_mm_per_unit(header)] * 3, 1.0])
        try:
            qform = header.get_qform()
        except (HeaderDataError, ValueError):
            qform = np.full((4, 4), np.nan)
        return unit @ header.get_sform(), unit @ qform


def _mm_per_unit(header: nib.Nifti1Header) -> float:
    return MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
