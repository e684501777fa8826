"""Reading NIfTI to the last byte, so that a damaged file is noticed."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError

from DISYRECore.io.checks import check_shape, damaged, not_an_image
from DISYRECore.io.forms import NiftiForms
from DISYRECore.io.volume import Volume

_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    WrapStructError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    TypeError,
    KeyError,
    zlib.error,
)
_BLOCK = 2**20


@np.errstate(invalid="ignore")
def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI file by nibabel's precedence of forms.

    Args:
        path: A .nii or .nii.gz file, by its content a gzip stream or not.

    Returns:
        float32 voxels; the forms as they were read, and doubts about them.

    Raises:
        DisyreError: No NIfTI, no 3D grey image, or a damaged one.
    """
    with _opened(path) as stream:
        try:
            image, forms = _header(stream)
        except _UNREADABLE as error:
            raise not_an_image(path) from error
        dtype = image.get_data_dtype()
        check_shape(path, image.shape, 2 if dtype.kind == "c" else len(dtype.fields or "1"))
        try:
            voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
            _read_to_the_end(stream, math.prod(image.shape[:2]) * dtype.itemsize)
        except _UNREADABLE as error:
            raise damaged(path) from error
    voxels = np.ascontiguousarray(voxels.reshape(image.shape[:3]))
    notes = tuple(forms.doubts(voxels.shape))
    return Volume(voxels, forms.affine, str(path), notes, forms, forms.has_place)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise damaged(path) from error
    with file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if zipped else file  # type: ignore[misc]


def _header(stream: IO[bytes]) -> tuple[nib.Nifti1Image, NiftiForms]:
    """The image, its voxels not yet read, and the forms of the header before nibabel mends it."""
    size = stream.read(4)
    stream.seek(0)
    kind = nib.Nifti2Image if 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big")) else nib.Nifti1Image
    image = kind.from_stream(stream)
    stream.seek(0)
    return image, NiftiForms.of(kind.header_class.from_fileobj(stream, check=False), image.affine)


def _read_to_the_end(stream: IO[bytes], slice_bytes: int) -> None:
    """Reads what follows the voxels, so that gzip compares its checksum.

    Raises:
        ValueError: At least a slice follows: the header is not that of these voxels.
    """
    rest = 0
    while block := stream.read(_BLOCK):
        rest += len(block)
        if rest >= max(slice_bytes, _BLOCK):
            raise ValueError("more voxels than the header says")
