"""Reading scans and masks: NIfTI, NRRD, MetaImage and DICOM series."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.io.checks import check_affine, check_image
from DISYRECore.io.dicom import is_dicom, read_dicom
from DISYRECore.io.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, check_exists, image_suffix, short_name
from DISYRECore.io.grid import Grid, same_grid
from DISYRECore.io.itk import read_itk
from DISYRECore.io.nifti import read_nifti
from DISYRECore.io.volume import Volume, resample

# --- reading


def read_volume(path: Path | str) -> Volume:
    """Reads a scan: NIfTI, NRRD, MetaImage, or DICOM.

    Args:
        path: An image file, a DICOM file of many frames, or a folder with DICOM files, see `dicom.read_dicom`.

    Returns:
        The scan, float32, rescaled to its real values; NaN and infinite voxels hold the lowest finite value. What had
        to be chosen, and what is doubtful, stands in its notes.

    Raises:
        DisyreError: The path holds no readable 3D grey image (see also `check_image`).
    """
    volume = _read(Path(path))
    check_image(volume)
    return replace(volume, voxels=_without_nonfinite(volume.voxels))


def read_mask(path: Path | str, grid: Grid, *, allow_empty: bool = False) -> np.ndarray:
    """Reads a mask or label file onto a grid; every voxel above 0.5 belongs to the mask.

    Args:
        path: An image file or a DICOM folder.
        grid: The grid to bring the mask to, by nearest neighbour, where its own differs.
        allow_empty: Whether a mask that marks nothing is fine, as the truth of a healthy scan is.

    Returns:
        (X, Y, Z) bool array on `grid`.

    Raises:
        DisyreError: The file cannot be read, marks nothing, marks nothing inside the grid, or has the size of the grid
            but not its place.
    """
    mask = _read(Path(path))
    inside = mask.voxels > 0.5
    if not inside.any() and not allow_empty:
        raise DisyreError(f"{short_name(mask.source)} is an empty mask; give one that marks at least one voxel.")
    if mask.shape == grid.shape and not same_grid(mask.grid, grid):
        _check_place(mask, inside, grid)
    resampled = resample(replace(mask, voxels=inside), grid, order=0).voxels
    if inside.any() and not resampled.any():
        raise DisyreError(f"{short_name(mask.source)} marks nothing inside the scan; give a mask of this scan.")
    return resampled


def _check_place(mask: Volume, inside: np.ndarray, grid: Grid) -> None:
    """Refuses a mask of the size of a scan that was saved without the scan's place."""
    has_none = not mask.has_sides or np.allclose(np.abs(mask.affine), np.eye(4))
    to_scan = np.linalg.inv(grid.affine) @ mask.affine
    indices = np.argwhere(inside) @ to_scan[:3, :3].T + to_scan[:3, 3]
    within = ((indices > -0.5) & (indices < np.array(grid.shape) - 0.5)).all(axis=1)
    if has_none or (len(within) and within.mean() < 0.5):
        raise DisyreError(
            f"{short_name(mask.source)} has the size of the scan but lies elsewhere; save it with the scan's geometry."
        )


def find_scans(path: Path | str) -> list[Path]:
    """Lists the scans that a path stands for, sorted.

    Args:
        path: An image file, a DICOM folder, a folder with image files, or a folder whose subfolders hold
            scans (a subfolder with DICOM files counts as one scan).

    Returns:
        Paths for `read_volume`.

    Raises:
        DisyreError: There is nothing at this path, or no scan.
    """
    path = Path(path)
    check_exists(path)
    if path.is_file():
        return [path]
    scans = scans_in(path)
    if not scans:
        folders = sorted(Path(folder) for folder, _, _ in os.walk(path))
        scans = [scan for folder in folders if not _is_hidden(folder, path) for scan in scans_in(folder)]
    if not scans:
        raise DisyreError(f"{short_name(path)} holds no scans; give one with DICOM, NIfTI, NRRD or MHA files.")
    return scans


def scans_in(folder: Path) -> list[Path]:
    """The scans right in a folder, sorted: the folder itself where it holds DICOM files, otherwise its image files."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if any(is_dicom(file) for file in files):
        return [folder]
    return [file for file in files if image_suffix(file) in IMAGE_SUFFIXES]


def _is_hidden(folder: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in folder.relative_to(root).parts)


def _read(path: Path) -> Volume:
    check_exists(path)
    if path.is_dir() or is_dicom(path):
        volume = read_dicom(path)
    elif not image_suffix(path):
        raise DisyreError(
            f"{path.name} is of an unknown type; give a {', '.join(IMAGE_SUFFIXES)} file or a DICOM folder."
        )
    else:
        volume = read_nifti(path) if image_suffix(path) in NIFTI_SUFFIXES else read_itk(path)
    check_affine(volume)
    return volume


def _without_nonfinite(voxels: np.ndarray) -> np.ndarray:
    finite = np.isfinite(voxels)
    return voxels if finite.all() else np.where(finite, voxels, voxels[finite].min())
