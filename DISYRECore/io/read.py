"""Reading scans and masks: NIfTI, NRRD, MetaImage and DICOM series."""

from __future__ import annotations

import math
import os
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, check_exists, image_suffix, short_name
from DISYRECore.io.grid import LPS_TO_RAS, Grid
from DISYRECore.io.volume import Volume, resample

MIN_SLICES = 3


# --- reading


def read_volume(path: Path | str) -> Volume:
    """Reads a scan: NIfTI, NRRD, MetaImage, or a folder with a DICOM series (the one with most slices).

    Args:
        path: An image file or a DICOM folder.

    Returns:
        The scan, float32, rescaled to its real values; NaN and infinite voxels hold the lowest finite value.

    Raises:
        DisyreError: The path holds no readable 3D grey image (see also `check_image`).
    """
    volume = _read(Path(path))
    check_image(volume)
    return replace(volume, voxels=_without_nonfinite(volume.voxels))


def check_image(volume: Volume) -> None:
    """Refuses an image in which there is nothing to see.

    Raises:
        DisyreError: Fewer than three slices along an axis, no finite voxel, or one value everywhere.
    """
    name = short_name(volume.source)
    if min(volume.shape) < MIN_SLICES:
        size = _times(volume.shape)
        raise DisyreError(f"{name} has fewer than {MIN_SLICES} slices on one axis ({size}); give a 3D scan.")
    finite = volume.voxels[np.isfinite(volume.voxels)]
    if not finite.size:
        raise DisyreError(f"{name} has no voxel with a valid number in it; export the scan again.")
    if finite.min() == finite.max():
        raise DisyreError(f"{name} has the same value ({finite[0]:g}) in every voxel; give another scan.")


def read_mask(path: Path | str, grid: Grid, *, allow_empty: bool = False) -> np.ndarray:
    """Reads a mask or label file onto a grid; every voxel above 0.5 belongs to the mask.

    Args:
        path: An image file or a DICOM folder.
        grid: The grid to bring the mask to, by nearest neighbour, where its own differs.
        allow_empty: Whether a mask that marks nothing is fine, as the truth of a healthy scan is.

    Returns:
        (X, Y, Z) bool array on `grid`.

    Raises:
        DisyreError: The file cannot be read, marks nothing, or marks nothing inside the grid.
    """
    mask = _read(Path(path))
    inside = mask.voxels > 0.5
    if not inside.any() and not allow_empty:
        raise DisyreError(f"{short_name(mask.source)} is an empty mask; give one that marks at least one voxel.")
    resampled = resample(replace(mask, voxels=inside), grid, order=0).voxels
    if inside.any() and not resampled.any():
        raise DisyreError(f"{short_name(mask.source)} marks nothing inside the scan; give a mask of this scan.")
    return resampled


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
    if any(_is_dicom(file) for file in files):
        return [folder]
    return [file for file in files if image_suffix(file) in IMAGE_SUFFIXES]


def _is_hidden(folder: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in folder.relative_to(root).parts)


def _is_dicom(file: Path) -> bool:
    if file.name.upper() == "DICOMDIR" or image_suffix(file):
        return False
    with suppress(OSError), file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
    return False


def _read(path: Path) -> Volume:
    check_exists(path)
    if path.is_dir():
        volume = _read_dicom(path)
    elif not image_suffix(path):
        raise DisyreError(
            f"{path.name} is of an unknown type; give a {', '.join(IMAGE_SUFFIXES)} file or a DICOM folder."
        )
    else:
        volume = _read_nifti(path) if image_suffix(path) in NIFTI_SUFFIXES else _read_itk(path)
    _check_affine(volume)
    return volume


def _read_nifti(path: Path) -> Volume:
    """Geometry by ITK, as in 3D Slicer; voxels by nibabel, since ITK fills up a truncated file with zeros."""
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise _not_an_image(path) from error
    dtype = image.get_data_dtype()
    _check_shape(path, image.shape, 2 if dtype.kind == "c" else len(dtype.fields or "1"))
    try:
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path) from error
    voxels = np.ascontiguousarray(voxels.reshape(image.shape[:3]))
    return Volume(voxels, _nifti_affine(path, image), str(path))


def _nifti_affine(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # ITK takes no sheared sform
        return np.asarray(image.affine, dtype=float)
    return _ras_affine(reader)


def _read_itk(path: Path) -> Volume:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _not_an_image(path) from error
    _check_shape(path, reader.GetSize(), reader.GetNumberOfComponents())
    return _execute(reader, path)


def _read_dicom(folder: Path) -> Volume:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder), True)
    files = max((_series_files(folder, name) for name in series), key=_count_slices, default=())
    if not files or not _count_slices(files):
        raise DisyreError(f"{short_name(folder)} holds no DICOM images; give an image file or a DICOM folder.")
    header = _dicom_header(files[0])
    _check_shape(folder, header.GetSize(), header.GetNumberOfComponents())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.MetaDataDictionaryArrayUpdateOn()
    volume = _execute(reader, folder)
    _check_slices(reader, len(files), folder)
    return volume


def _series_files(folder: Path, series: str) -> tuple[str, ...]:
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series, True)


def _dicom_header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _count_slices(files: tuple[str, ...]) -> int:
    """Slices in a series: one a file, or many in an enhanced multi-frame file; 0 without images."""
    try:
        size = _dicom_header(files[0]).GetSize()
    except RuntimeError:
        return 0
    return len(files) * math.prod(size[2:])


def _check_slices(reader: sitk.ImageSeriesReader, count: int, folder: Path) -> None:
    position = "0020|0032"
    if count < 2 or not all(reader.HasMetaDataKey(i, position) for i in range(count)):
        return
    places = np.array([[float(x) for x in reader.GetMetaData(i, position).split("\\")] for i in range(count)])
    if len(np.unique(places.round(3), axis=0)) < count:
        raise DisyreError(f"{short_name(folder)} holds several images of one slice (4D); give one frame.")
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    if steps.max() > 1.1 * steps.min():
        raise DisyreError(f"{short_name(folder)} has missing or unevenly spaced slices; export it again.")


def _execute(reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path) -> Volume:
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(path) from error
    voxels = sitk.GetArrayViewFromImage(image).T
    return Volume(np.array(voxels.reshape(voxels.shape[:3]), order="C"), _ras_affine(image), str(path))


def _ras_affine(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    spacing, origin = image.GetSpacing(), image.GetOrigin()
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (len(spacing), len(spacing)))
    affine[:3, :3] = direction[:3, :3] * spacing[:3]
    affine[:3, 3] = origin[:3]
    return LPS_TO_RAS @ affine


def _without_nonfinite(voxels: np.ndarray) -> np.ndarray:
    finite = np.isfinite(voxels)
    return voxels if finite.all() else np.where(finite, voxels, voxels[finite].min())


def _check_shape(path: Path, shape: tuple[int, ...], components: int) -> None:
    name = short_name(path)
    if components > 1:
        raise DisyreError(f"{name} has {components} values a voxel (colour or vector); give a grey image.")
    if len(shape) < 3:
        raise DisyreError(f"{name} is a 2D image ({_times(shape)}); give a 3D scan.")
    if 0 in shape:
        raise DisyreError(f"{name} has no voxels ({_times(shape)}); export the scan again.")
    frames = math.prod(shape[3:])
    if frames > 1:
        raise DisyreError(f"{name} is a {len(shape)}D image with {frames} frames; give one frame of it.")


def _check_affine(volume: Volume) -> None:
    if not np.isfinite(volume.affine).all() or volume.grid.voxel_ml < 1e-12:
        raise DisyreError(f"{short_name(volume.source)} has no valid position in space; export the scan again.")


def _not_an_image(path: Path) -> DisyreError:
    return DisyreError(f"{path.name} is not the image that its name says; export the scan again.")


def _damaged(path: Path) -> DisyreError:
    return DisyreError(f"{short_name(path)} is damaged or incomplete; copy or export the scan again.")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
