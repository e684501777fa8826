"""One scan in every form that it may come in: the same score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from fuzz import brain
from scipy.spatial.transform import Rotation
from support import write_dicom, write_enhanced_dicom

from DISYRECore.detection.detector import Detection, Detector
from DISYRECore.io.grid import LPS_TO_RAS
from DISYRECore.io.volume import Volume, to_canonical

MOST_OF_RANGE = 1e-3


def scan() -> Volume:
    """Oblique, of an adult's size, with a bright spot."""
    volume = brain()
    voxels = volume.voxels.copy()
    voxels[10:13, 14:17, 13:16] += 500
    affine = volume.affine.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", (7, -4, 11), degrees=True).as_matrix() @ affine[:3, :3]
    return Volume(voxels, affine)


def nifti(path: Path, volume: Volume, codes: tuple[int, int]) -> Path:
    image = nib.Nifti1Image(volume.voxels.astype(np.int16), None)
    image.header.set_qform(volume.affine, codes[0])
    image.header.set_sform(volume.affine, codes[1])
    nib.save(image, path)
    return path


def itk(path: Path, volume: Volume) -> Path:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T))
    lps = LPS_TO_RAS @ volume.affine
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


def reoriented(path: Path, volume: Volume, orientation: str) -> Path:
    image = nib.Nifti1Image(volume.voxels.astype(np.int16), volume.affine)
    old, new = nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(orientation)
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(old, new)), path)
    return path


FORMS: dict[str, Callable[[Path, Volume], Path]] = {
    "sform": lambda folder, volume: nifti(folder / "T1.nii.gz", volume, (0, 2)),
    "qform": lambda folder, volume: nifti(folder / "T1.nii", volume, (1, 0)),
    "NRRD": lambda folder, volume: itk(folder / "T1.nrrd", volume),
    "MHA": lambda folder, volume: itk(folder / "T1.mha", volume),
    "classic DICOM": lambda folder, volume: write_dicom(folder / "T1", volume),
    "enhanced DICOM": lambda folder, volume: write_enhanced_dicom(folder / "T1", volume),
    "flipped": lambda folder, volume: reoriented(folder / "T1.nii.gz", volume, "RPI"),
    "rotated": lambda folder, volume: reoriented(folder / "T1.nii.gz", volume, "SLA"),
    "sagittal": lambda folder, volume: reoriented(folder / "T1.nii.gz", volume, "PIR"),
}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(method="z-score", device="cpu")


@pytest.fixture(scope="module")
def expected(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Detection:
    path = nifti(tmp_path_factory.mktemp("scan") / "T1.nii.gz", scan(), (1, 1))
    return detector.detect(path, border=0.3)


@pytest.mark.parametrize("form", FORMS)
def test_the_score_does_not_depend_on_the_form_of_the_file(tmp_path, detector, expected, form):
    found = detector.detect(FORMS[form](tmp_path, scan()), border=0.3)
    one, other = to_canonical(found.score), to_canonical(expected.score)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-3)
    assert np.abs(one.voxels - other.voxels).max() <= MOST_OF_RANGE * np.ptp(other.voxels)
    assert np.ptp(other.voxels) > 0.2
    strongest, wanted = found.findings[0], expected.findings[0]
    assert strongest.side == wanted.side
    np.testing.assert_allclose(strongest.centroid_ras, wanted.centroid_ras, atol=1.0)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0)])
def test_without_a_place_findings_have_no_side(tmp_path, detector, codes):
    found = detector.detect(nifti(tmp_path / "T1.nii.gz", scan(), codes), border=0.3)
    assert found.findings
    assert all(bool(finding.side) == (codes != (0, 0)) for finding in found.findings)
    assert any("sides are not stated" in flag for flag in found.record["scan"]["flags"]) == (codes == (0, 0))
