"""Ultrasound: a frame or a clip, truly 2D; its third axis counts frames, not millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import IMAGE_SUFFIXES
from DISYRECore.io.grid import LPS_TO_RAS, Grid
from DISYRECore.io.volume import Volume, crop, crop_box, resample, resample_mask
from DISYRECore.preprocessing.modalities.base import Modality, Window, check_inside, prepared
from DISYRECore.preprocessing.prepare import PreparedBrain

PICTURE_SPACING = (1.0, 1.0, 1.0)

FRAME_POINTS = 128
"""Points along the longer side of a prepared ultrasound frame."""

PICTURE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
LUMINANCE = np.array([0.299, 0.587, 0.114])
BURNED_IN = "Ultrasound frames may carry the patient's name in their pixels: crop it off, or give a mask without it."


def find_clips(path: Path | str) -> list[Path]:
    """The clips that a path stands for: a file, a folder of pictures (one clip), or a folder of image files.

    Raises:
        DisyreError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise DisyreError(f"There is no file or folder {path}; check the path.")
    if path.is_file() or _pictures(path):
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and _may_be_clip(file))
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _pictures(folder)]
    if not files and not folders:
        raise DisyreError(f"{path.name} holds no ultrasound frames; give PNG, DICOM, NRRD, NIfTI or MHA files.")
    return [*folders, *files]


def _may_be_clip(file: Path) -> bool:
    name = file.name.lower()
    return not name.startswith(".") and (name.endswith((*IMAGE_SUFFIXES, ".dcm", ".dicom")) or "." not in name)


def _pictures(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and not f.name.startswith("."))


def read_frames(path: Path | str) -> Volume:
    """Reads a frame or a clip as grey values, (X, Y, frames).

    Args:
        path: A picture, a DICOM, NRRD, NIfTI or MHA file with one or many frames, or a folder of pictures of one size
            in the order of their names.

    Returns:
        float32; 1 mm between the frames, and between the pixels where the file does not say.

    Raises:
        DisyreError: Nothing to be read, frames of different sizes, or one value everywhere.
    """
    path = Path(path)
    if not path.exists():
        raise DisyreError(f"There is no file or folder {path}; check the path.")
    volume = _read_pictures(path) if path.is_dir() else _read_clip(path)
    if not np.isfinite(volume.voxels).all() or np.ptp(volume.voxels) == 0:
        raise DisyreError(f"{path.name} has no picture in it: all pixels are the same; give another file.")
    return volume


def _read_pictures(folder: Path) -> Volume:
    files = _pictures(folder)
    if not files:
        raise DisyreError(f"{folder.name} holds no pictures; give a folder of PNG files.")
    frames = [_read_picture(file) for file in files]
    if len({frame.shape for frame in frames}) > 1:
        raise DisyreError(f"The pictures in {folder.name} have different sizes; give frames of one clip.")
    return Volume(np.stack(frames, axis=2), LPS_TO_RAS.copy(), str(folder))


def _read_picture(file: Path) -> np.ndarray:
    """(X, Y) float32; 16-bit grey values stay what they are."""
    try:
        with Image.open(file) as picture:
            grey = picture if picture.mode in ("L", "I", "I;16", "F") else picture.convert("L")
            return np.asarray(grey, np.float32).T
    except (OSError, ValueError) as error:
        raise DisyreError(f"{file.name} is not the image that its name says; export it again.") from error


def _read_clip(path: Path) -> Volume:
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return Volume(_read_picture(path)[..., None], LPS_TO_RAS.copy(), str(path))
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DisyreError(f"{path.name} cannot be read as ultrasound; give PNG, DICOM, NRRD, NIfTI or MHA.") from error
    if image.GetDimension() > 3 and min(image.GetSize()[3:]) > 1:
        raise DisyreError(f"{path.name} is a volume over time; give 2D frames.")
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = voxels[..., :3] @ LUMINANCE.astype(np.float32)
    voxels = voxels.reshape(voxels.shape[-3:] if voxels.ndim > 2 else (1, *voxels.shape))
    return Volume(np.ascontiguousarray(voxels.T), _frame_affine(image), str(path))


def _frame_affine(image: sitk.Image) -> np.ndarray:
    """Voxel to RAS; frames follow each other at right angles where the file gives no third axis."""
    size, affine = image.GetDimension(), np.eye(4)
    used = min(size, 3)
    direction = np.reshape(image.GetDirection(), (size, size))[:used, :used]
    affine[:used, :used] = direction * image.GetSpacing()[:used]
    affine[:used, 3] = image.GetOrigin()[:used]
    return LPS_TO_RAS @ affine


def read_frame_mask(path: Path | str, grid: Grid) -> np.ndarray:
    """A mask of the size of a clip, or of one frame for all frames; what is above half of its maximum is inside.

    Raises:
        DisyreError: Another size, or an empty mask.
    """
    mask = read_frames(path).voxels
    if mask.shape[:2] != grid.shape[:2] or mask.shape[2] not in (1, grid.shape[2]):
        raise DisyreError(f"{Path(path).name} has another size than the frames; give a mask of this clip.")
    return np.broadcast_to(mask > mask.max() / 2, grid.shape).copy()


def prepare_ultrasound(
    scan: Volume, spacing_mm: float, mask: np.ndarray | None = None, contrast: str | None = None
) -> PreparedBrain:
    """Frames of `FRAME_POINTS` along the longer side, from the darkest to the brightest pixel of the clip.

    Args:
        scan: Frames as `read_frames` gives them; its array axes are kept.
        spacing_mm: Not used; pixels have no size that all scanners share.
        mask: Where to look, bool on the scan's grid, for example the vessel; everywhere when None.
        contrast: Taken as it is.

    Raises:
        DisyreError: The mask is empty or of one intensity.
    """
    looked_at = np.ones(scan.shape, bool) if mask is None else mask
    check_inside(scan, looked_at)
    x, y, _ = crop_box(looked_at, margin=1)
    box = (x, y, slice(0, scan.shape[2]))
    near, near_mask = crop(scan, box), crop(Volume(looked_at.astype(np.float32), scan.affine), box)
    grid = frame_grid(near.grid)
    inside = resample_mask(near_mask, grid)
    window = Window(float(scan.voxels[looked_at].min()), float(scan.voxels[looked_at].max()))
    image = Volume(window.normalise(resample(near, grid).voxels) * inside, grid.affine, scan.source)
    flags = [BURNED_IN] if mask is None else []
    if scan.shape[2] == 1:
        flags.append("The clip has a single frame: it is judged as a still picture.")
    if np.allclose(scan.spacing_mm, PICTURE_SPACING):
        flags.append("The file does not say how large its pixels are: sizes are counted as if they were 1 mm.")
    return prepared(scan, image, inside, looked_at, window, contrast or "US", flags, "frame")


def frame_grid(grid: Grid) -> Grid:
    """The same frames with `FRAME_POINTS` points along the longer side; the frames themselves stay apart."""
    width, height, frames = grid.shape
    ratio = max(width, height) / FRAME_POINTS
    shape = (round(width / ratio) or 1, round(height / ratio) or 1, frames)
    affine = grid.affine.copy()
    affine[:3, :2] *= ratio
    shift = [(ratio - 1) / 2 + (n - m * ratio) / 2 for n, m in zip((width, height), shape[:2], strict=True)]
    affine[:3, 3] += grid.affine[:3, :2] @ shift
    return Grid(shape, affine)


MODALITY = Modality(
    "ultrasound",
    find_clips,
    read_frames,
    read_frame_mask,
    prepare_ultrasound,
    smallest_ml=0.0,
    has_sides=False,
    has_depth=False,
)
