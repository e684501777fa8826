"""Writing volumes as NIfTI or NRRD, whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import NIFTI_SUFFIXES, image_suffix
from DISYRECore.io.grid import LPS_TO_RAS, RIGHT_ANGLE, directions
from DISYRECore.io.volume import Volume, storable

WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd")


# --- writing


def write_volume(volume: Volume, path: Path | str) -> None:
    """Writes a volume as NIfTI or NRRD, whole or not at all.

    Args:
        volume: What to write; the voxel type is kept, bool becomes uint8. A NIfTI file says where it lies as the
            one did that it was read from.
        path: A .nii.gz, .nii or .nrrd file in a folder that exists; a file that is there is replaced.

    Raises:
        DisyreError: Of kind ``output``: unknown ending, or the file cannot be written there.
    """
    path = Path(path)
    check_image_name(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}{image_suffix(path)}")
    save = _save_nifti if image_suffix(path) in NIFTI_SUFFIXES else _save_nrrd
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
    if image_suffix(path) not in WRITABLE_SUFFIXES:
        endings = " or ".join(WRITABLE_SUFFIXES)
        raise DisyreError(f"{path.name} does not end in {endings}; choose such a name.", "output")


def _save_nifti(volume: Volume, path: Path) -> None:
    """Writes both forms as they were read where the voxels lie as in a NIfTI file that was read."""
    image = nib.Nifti1Image(storable(volume.voxels), None)
    if volume.forms is not None and volume.forms.are_of(volume.affine):
        volume.forms.write_to(image.header)
    else:
        image.header.set_sform(volume.affine, code=1)
        image.header.set_qform(volume.affine, code=0 if _is_sheared(volume.affine) else 1)
        image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _save_nrrd(volume: Volume, path: Path) -> None:
    affine = LPS_TO_RAS @ volume.affine
    image = sitk.GetImageFromArray(storable(volume.voxels).T)
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / volume.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _is_sheared(affine: np.ndarray) -> bool:
    """Whether a qform, which holds a rotation and three spacings, cannot express the affine."""
    axes = directions(affine)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=RIGHT_ANGLE)
