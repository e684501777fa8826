"""What counts as a finding in a result of the scene, found again whenever a slider rests, without blocking."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import slicer

from DISYRELib.options import Criteria
from DISYRELib.scene import Note, Result, Row, box_of, ijk_to_ras, is_edited, rounded, write_rows, write_segment

if TYPE_CHECKING:
    from DISYRECore.detection.findings import Components, Finding
    from DISYRECore.detection.places import BrainExtent
    from DISYRECore.io.volume import Volume

Found = tuple[np.ndarray, list[int], list[Row]]
"""Labels (Z, Y, X) of a part of the grid, the corner of that part (z, y, x), and the findings."""


@dataclass(frozen=True)
class ScoreMap:
    """A score with its place, as `DISYRECore.detection.findings` takes it.

    Attributes:
        voxels: (X, Y, Z) float32 in [0, 1].
        affine: (4, 4), voxel index to RAS mm, without the parent transform.
    """

    voxels: np.ndarray
    affine: np.ndarray

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True)
class BrainPart:
    """The part of a result that holds the brain.

    Attributes:
        score: There.
        brain: (X, Y, Z) bool.
        corner: Where it begins in the grid of the result, (z, y, x).
        extent: Of the brain.
    """

    score: ScoreMap
    brain: np.ndarray
    corner: list[int]
    extent: BrainExtent


class Search:
    """Finds in one result again and again, and keeps what the sliders leave as it is.

    Args:
        result: Complete.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        self._part: tuple[object, BrainPart] | None = None
        self._components: tuple[object, Components] | None = None

    def steps(self, criteria: Criteria) -> Generator[None, None, None]:
        """Brings table and segment in line with what counts as a finding, in steps of less than 100 ms.

        A segment that was edited by hand is left alone.
        """
        labels, corner, rows = yield from self.find(criteria)
        write_rows(self.result, rows)
        if not is_edited(self.result.segmentation):
            write_segment(self.result, labels, corner, rows)

    def find(self, criteria: Criteria) -> Generator[None, None, Found]:
        """Finds as the core does, in steps; a finding that was dropped by hand stays dropped."""
        part = self._brain_part()
        yield
        components = self._components_above(criteria.border, part)
        yield
        labels, findings = components.findings(criteria.border, criteria.smallest_ml, criteria.false_findings)
        yield
        return labels.T, part.corner, _rows(self.result, findings, part.extent)

    def _brain_part(self) -> BrainPart:
        state = [_state_of(node) for node in (self.result.score, self.result.levels)]
        if self._part is None or self._part[0] != state:
            self._part, self._components = (state, _cut(self.result)), None
        return self._part[1]

    def _components_above(self, border: float, part: BrainPart) -> Components:
        from DISYRECore.detection.findings import find_components

        healthy = self.result.healthy
        lowest = border if healthy is None else healthy
        if self._components is None or self._components[0] != lowest:
            found = find_components(cast("Volume", part.score), border, part.brain, healthy)
            self._components = lowest, found
        return self._components[1]


def _state_of(node: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """Changes when the voxels or their place do."""
    return node.GetImageData().GetPointData().GetScalars().GetMTime(), _affine(node).tobytes()


def _affine(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    affine: np.ndarray = slicer.util.arrayFromVTKMatrix(ijk_to_ras(node))
    return affine


def _cut(result: Result) -> BrainPart:
    from DISYRECore.detection.places import extent_of

    levels = slicer.util.arrayFromVolume(result.levels)
    box = box_of(levels)
    corner = [part.start for part in box]
    voxels = np.ascontiguousarray(slicer.util.arrayFromVolume(result.score)[box].T)
    affine = _affine(result.score)
    affine[:, 3] = affine @ [*reversed(corner), 1]
    brain = np.ascontiguousarray((levels[box] > 0).T)
    return BrainPart(ScoreMap(voxels, affine), brain, corner, extent_of(brain, affine))


def _rows(result: Result, findings: list[Finding], extent: BrainExtent) -> list[Row]:
    dropped, notes, contrast = result.dropped, result.notes, result.record.get("contrast") or ""
    affine, shape = _affine(result.score), result.score.GetImageData().GetDimensions()
    return [
        replace(
            _row(finding, contrast, place not in dropped, notes.get(place, Note()), extent),
            slice_number=slice_number(finding.peak_ras, affine, shape),
        )
        for finding in findings
        for place in [rounded(finding.peak_ras)]
    ]


def slice_number(place: tuple[float, float, float], affine: np.ndarray, shape: tuple[int, ...]) -> int:
    """Number of the axial slice of a volume through a point, as a reader counts: from 1 at the foot.

    Args:
        place: RAS mm without the parent transform.
        affine: (4, 4), voxel index (i, j, k) to RAS mm.
        shape: Voxels along i, j and k.
    """
    axis = int(np.argmax(np.abs(affine[2, :3] / np.linalg.norm(affine[:3, :3], axis=0))))
    index = round(float((np.linalg.inv(affine) @ [*place, 1])[axis]))
    return index + 1 if affine[2, axis] > 0 else shape[axis] - index


def _row(finding: Finding, contrast: str, kept: bool, note: Note, extent: BrainExtent) -> Row:
    from DISYRECore.detection.places import caution_about, region_of

    return Row(
        number=finding.label,
        side=finding.side,
        volume_ml=finding.volume_ml,
        diameter_mm=finding.diameter_mm,
        evidence=finding.evidence,
        false_findings=finding.false_findings,
        shown_by=", ".join(finding.contrasts) or contrast,
        peak=finding.peak,
        mean=finding.mean,
        place=rounded(finding.peak_ras),
        kept=kept,
        region=region_of(finding.centroid_ras, extent),
        caution=caution_about(finding.centroid_ras, finding.volume_ml, extent),
        **vars(note),
    )
