"""Images and the grids they lie on: reading, writing, orientation, resampling, cropping.

World coordinates are RAS millimetres; voxel arrays are indexed (X, Y, Z); an affine takes a voxel index to
the world, and whole indices are voxel centres.
"""

from __future__ import annotations

import math
import os
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from .errors import DisyreError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd")
MIN_SLICES = 3
SAME_GRID_MM = 0.01
SMOOTH_ABOVE_RATIO = 1.2
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Box = tuple[slice, slice, slice]

sitk.ProcessObject.SetGlobalWarningDisplay(False)


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


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place in the world.

    Attributes:
        voxels: (X, Y, Z) array of any scalar type.
        affine: (4, 4) float, voxel index to RAS mm.
        source: The file or folder that the voxels came from; empty for computed ones.
    """

    voxels: np.ndarray
    affine: np.ndarray
    source: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y, Z."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        return Grid(self.shape, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along X, Y, Z in mm."""
        return self.grid.spacing_mm

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return self.grid.voxel_ml


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
    name = _name(volume.source)
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
        raise DisyreError(f"{_name(mask.source)} is an empty mask; give one that marks at least one voxel.")
    resampled = resample(replace(mask, voxels=inside), grid, order=0).voxels
    if inside.any() and not resampled.any():
        raise DisyreError(f"{_name(mask.source)} marks nothing inside the scan; give a mask of this scan.")
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
    _check_exists(path)
    if path.is_file():
        return [path]
    scans = _scans_in(path)
    if not scans:
        folders = sorted(Path(folder) for folder, _, _ in os.walk(path))
        scans = [scan for folder in folders if not _is_hidden(folder, path) for scan in _scans_in(folder)]
    if not scans:
        raise DisyreError(f"{_name(path)} holds no scans; give one with DICOM, NIfTI, NRRD or MHA files.")
    return scans


def _scans_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if any(_is_dicom(file) for file in files):
        return [folder]
    return [file for file in files if _suffix(file) in IMAGE_SUFFIXES]


def _is_hidden(folder: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in folder.relative_to(root).parts)


def _is_dicom(file: Path) -> bool:
    if file.name.upper() == "DICOMDIR" or _suffix(file):
        return False
    with suppress(OSError), file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
    return False


def _read(path: Path) -> Volume:
    _check_exists(path)
    if path.is_dir():
        volume = _read_dicom(path)
    elif not _suffix(path):
        raise DisyreError(
            f"{path.name} is of an unknown type; give a {', '.join(IMAGE_SUFFIXES)} file or a DICOM folder."
        )
    else:
        volume = _read_nifti(path) if _suffix(path) in NIFTI_SUFFIXES else _read_itk(path)
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
        raise DisyreError(f"{_name(folder)} holds no DICOM images; give an image file or a DICOM folder.")
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
        raise DisyreError(f"{_name(folder)} holds several images of one slice (4D); give one frame.")
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    if steps.max() > 1.1 * steps.min():
        raise DisyreError(f"{_name(folder)} has missing or unevenly spaced slices; export it again.")


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


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise DisyreError(f"There is no file or folder {path}; check the path.")


def _check_shape(path: Path, shape: tuple[int, ...], components: int) -> None:
    name = _name(path)
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
        raise DisyreError(f"{_name(volume.source)} has no valid position in space; export the scan again.")


def _not_an_image(path: Path) -> DisyreError:
    return DisyreError(f"{path.name} is not the image that its name says; export the scan again.")


def _damaged(path: Path) -> DisyreError:
    return DisyreError(f"{_name(path)} is damaged or incomplete; copy or export the scan again.")


def _name(path: Path | str) -> str:
    return Path(path).absolute().name if str(path) else "The image"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _suffix(path: Path) -> str:
    """The known image ending of a file name, in lower case; empty for any other."""
    return next((suffix for suffix in IMAGE_SUFFIXES if path.name.lower().endswith(suffix)), "")


# --- writing


def write_volume(volume: Volume, path: Path | str) -> None:
    """Writes a volume as NIfTI or NRRD, whole or not at all.

    Args:
        volume: What to write; the voxel type is kept, bool becomes uint8.
        path: A .nii.gz, .nii or .nrrd file in a folder that exists; a file that is there is replaced.

    Raises:
        DisyreError: Of kind ``output``: unknown ending, or the file cannot be written there.
    """
    path = Path(path)
    check_image_name(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}{_suffix(path)}")
    save = _save_nifti if _suffix(path) in NIFTI_SUFFIXES else _save_nrrd
    try:
        save(volume, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        sentence = f"{path.name} cannot be written to {path.absolute().parent}; choose another folder."
        raise DisyreError(sentence, "output") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_image_name(path: Path) -> None:
    """Refuses, before any computing, a name that no volume can be written to.

    Raises:
        DisyreError: Of kind ``output``: unknown ending.
    """
    if _suffix(path) not in WRITABLE_SUFFIXES:
        endings = " or ".join(WRITABLE_SUFFIXES)
        raise DisyreError(f"{path.name} does not end in {endings}; choose such a name.", "output")


def _save_nifti(volume: Volume, path: Path) -> None:
    image = nib.Nifti1Image(_storable(volume.voxels), volume.affine)
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=0 if _is_sheared(volume.affine) else 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _save_nrrd(volume: Volume, path: Path) -> None:
    affine = LPS_TO_RAS @ volume.affine
    image = sitk.GetImageFromArray(_storable(volume.voxels).T)
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _storable(voxels: np.ndarray) -> np.ndarray:
    return voxels.astype(np.uint8) if voxels.dtype == bool else voxels


def _is_sheared(affine: np.ndarray) -> bool:
    """Whether a qform, which holds a rotation and three spacings, cannot express the affine."""
    axes = _directions(affine)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)


# --- grids, orientation


def canonical_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Assigns the array axes to right, anterior and superior so that they agree best in sum.

    Args:
        affine: (4, 4), voxel index to RAS mm, at any angle.

    Returns:
        permutation: The array axis that runs along R, A and S.
        flips: Whether that axis runs backwards (towards L, P or I).
    """
    cosines = _directions(affine).round(6)
    world = np.arange(3)
    x, y, z = max(permutations(range(3)), key=lambda axes: np.abs(cosines[world, axes]).sum())
    return (x, y, z), (bool(cosines[0, x] < 0), bool(cosines[1, y] < 0), bool(cosines[2, z] < 0))


def to_canonical(volume: Volume) -> Volume:
    """Reorders and flips the array axes so that they run closest to R, A, S; no voxel moves in the world."""
    permutation, flips = canonical_axes(volume.affine)
    voxels = volume.voxels.transpose(permutation)
    to_old_index = np.eye(4)[:, [*permutation, 3]]
    to_old_index[:, :3] *= np.where(flips, -1, 1)
    to_old_index[list(permutation), 3] = np.where(flips, np.array(voxels.shape) - 1, 0)
    voxels = np.flip(voxels, tuple(axis for axis in range(3) if flips[axis]))
    return replace(volume, voxels=np.ascontiguousarray(voxels), affine=volume.affine @ to_old_index)


def model_grid(volume: Volume, spacing_mm: float) -> Grid:
    """The isotropic grid with the axes and centre of a volume that covers it to its outer voxel borders.

    Args:
        volume: A volume, canonical if the model's grid is to be.
        spacing_mm: Distance between voxel centres in mm.
    """
    extent_mm = np.multiply(volume.shape, volume.spacing_mm)
    x, y, z = np.ceil(extent_mm / spacing_mm - 1e-3).astype(int).tolist()
    affine = np.eye(4)
    affine[:3, :3] = _directions(volume.affine) * spacing_mm
    centre = volume.affine[:3, :3] @ _middle(volume.shape) + volume.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ _middle((x, y, z))
    return Grid((x, y, z), affine)


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same shape and no voxel lies further than 0.01 mm from its counterpart."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(one.shape) - 1)
    offsets = corners @ (one.affine - other.affine)[:3, :3].T + (one.affine - other.affine)[:3, 3]
    return one.shape == other.shape and bool(np.linalg.norm(offsets, axis=1).max() <= SAME_GRID_MM)


def _directions(affine: np.ndarray) -> np.ndarray:
    return affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)


def _middle(shape: tuple[int, int, int]) -> np.ndarray:
    return (np.array(shape) - 1) / 2


# --- resampling, cropping


def resample(volume: Volume, grid: Grid, order: int = 1, fill: float = 0.0) -> Volume:
    """Samples a volume at the voxel centres of another grid.

    For order 1, a floating-point volume is smoothed first along the axes on which the grid is more than 1.2
    times coarser, so that it is not aliased; other types are taken for labels and never smoothed.

    Args:
        volume: The voxels to sample.
        grid: Where to sample them.
        order: 1 for linear interpolation, 0 for the nearest voxel.
        fill: Value beyond the outer voxel borders of the volume.

    Returns:
        A volume on `grid`: float32 for order 1, the type of the input for order 0.
    """
    if order not in (0, 1):
        raise ValueError(f"order must be 0 or 1, not {order}")
    voxels = volume.voxels.astype(np.float32, copy=False) if order else volume.voxels
    if same_grid(volume.grid, grid):
        return Volume(voxels, grid.affine, volume.source)
    to_source = np.linalg.inv(volume.affine) @ grid.affine
    if order and np.issubdtype(volume.voxels.dtype, np.floating):
        voxels = _smooth_for(voxels, to_source)
    return Volume(_sample(voxels, to_source, grid.shape, order, fill), grid.affine, volume.source)


def _smooth_for(voxels: np.ndarray, to_source: np.ndarray) -> np.ndarray:
    """Scale factor point spread function matching (Cardoso et al., MICCAI 2015).

    A Gaussian whose full width at half maximum is the root of ratio² - 1 voxels turns a voxel profile of
    width 1 into one of width ratio; ratio is the size of a voxel of the grid, in voxels of the source.
    """
    ratio = np.linalg.norm(to_source[:3, :3], axis=1)
    fwhm = np.sqrt(np.where(ratio > SMOOTH_ABOVE_RATIO, ratio**2 - 1, 0))
    return ndimage.gaussian_filter(voxels, fwhm / FWHM_PER_SIGMA, mode="nearest") if fwhm.any() else voxels


def _sample(
    voxels: np.ndarray, to_source: np.ndarray, shape: tuple[int, int, int], order: int, fill: float
) -> np.ndarray:
    """Samples in index space; SimpleITK names the axes backwards, hence the reversed matrix and size."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_source[2::-1, 2::-1].ravel().tolist())
    transform.SetTranslation(to_source[2::-1, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(shape[::-1])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear if order else sitk.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(fill)
    sampled = resampler.Execute(sitk.GetImageFromArray(_storable(voxels)))
    return sitk.GetArrayFromImage(sampled).astype(voxels.dtype, copy=False)


def crop_box(mask: np.ndarray, margin: int) -> Box:
    """The smallest box around a mask, widened by a margin within the array.

    Args:
        mask: (X, Y, Z) bool.
        margin: Voxels to add on each side.

    Raises:
        DisyreError: The mask is empty.
    """
    if not mask.any():
        raise DisyreError("The mask is empty, so there is nothing to crop to; give another mask.")
    x, y, z = ndimage.find_objects(mask.astype(np.uint8))[0]
    nx, ny, nz = mask.shape
    return _widen(x, margin, nx), _widen(y, margin, ny), _widen(z, margin, nz)


def crop(volume: Volume, box: Box) -> Volume:
    """Cuts a box out of a volume; the voxels keep their place in the world."""
    first = [part.indices(size)[0] for part, size in zip(box, volume.shape, strict=True)]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return replace(volume, voxels=np.ascontiguousarray(volume.voxels[box]), affine=affine)


def _widen(part: slice, margin: int, size: int) -> slice:
    return slice(max(part.start - margin, 0), min(part.stop + margin, size))
