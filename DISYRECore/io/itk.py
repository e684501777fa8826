"""Reading NRRD and MetaImage, their compressed voxels to the last byte."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DISYRECore.errors import DisyreError
from DISYRECore.io.checks import check_shape, damaged, not_an_image
from DISYRECore.io.forms import NO_PLACE
from DISYRECore.io.grid import LPS_TO_RAS
from DISYRECore.io.volume import Volume

_BLOCK = 2**16
_GZIP_OR_ZLIB = 47
_HEADER_BYTES = 2**16
_COMPRESSED = re.compile(rb"^(?:encoding:\s*gz(?:ip)?|CompressedData\s*=\s*True)\s*$", re.IGNORECASE | re.MULTILINE)
_VOXEL_FILE = re.compile(
    rb"^(?:data ?file:|ElementDataFile\s*=)[ \t]*([^\r\n]+?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n|^ElementDataFile\s*=[^\n]*\n", re.MULTILINE)
_SPACING = re.compile(
    rb"^(?:spacings:|space directions:|Element(?:Spacing|Size)\s*=)[^\r\n]*\d", re.IGNORECASE | re.MULTILINE
)
_NEGATIVE = re.compile(rb"^(?:spacings:|Element(?:Spacing|Size)\s*=)[^\r\n]*(?<!e)-[\d.]", re.IGNORECASE | re.MULTILINE)
_PLACE = re.compile(
    rb"^(?:space:\s*(?:left|right|[lr][ap]s)|(?:TransformMatrix|Rotation|Orientation)\s*=)",
    re.IGNORECASE | re.MULTILINE,
)
"""What tells left from right; MetaImage has three names for it."""


def read_itk(path: Path) -> Volume:
    """Reads a NRRD or MetaImage file.

    Returns:
        float32 voxels.

    Raises:
        DisyreError: Neither of them, no 3D grey image, without spacing, or a damaged one.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise not_an_image(path) from error
    check_shape(path, reader.GetSize(), reader.GetNumberOfComponents())
    header = _header(path)
    _check_spacing(path, header)
    try:
        _check_compressed(path, header)
        image = reader.Execute()
    except (RuntimeError, OSError, ValueError, zlib.error) as error:
        raise damaged(path) from error
    voxels = sitk.GetArrayViewFromImage(image).T
    has_sides = bool(_PLACE.search(header))
    return Volume(
        np.array(voxels.reshape(voxels.shape[:3]), order="C"),
        _ras_affine(image),
        str(path),
        notes=() if has_sides else (NO_PLACE,),
        has_sides=has_sides,
    )


def _header(path: Path) -> bytes:
    """The lines before the voxels."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    end = _END_OF_HEADER.search(start)
    return start[: end.end()] if end else start


def _check_spacing(path: Path, header: bytes) -> None:
    """Refuses a file without voxel size, of which ITK makes 1 mm, and a negative one, which it takes for a mirror."""
    if not _SPACING.search(header):
        raise DisyreError(f"{path.name} does not say how large its voxels are; export the scan again.")
    if _NEGATIVE.search(header):
        raise DisyreError(f"{path.name} has a negative voxel size, which cannot be; export the scan again.")


def _check_compressed(path: Path, header: bytes) -> None:
    """Unzips compressed voxels to their end, where the checksum stands; ITK stops at the last voxel.

    Raises:
        ValueError, zlib.error: They are damaged.
    """
    if not _COMPRESSED.search(header):
        return
    named, end = _VOXEL_FILE.search(header), _END_OF_HEADER.search(header)
    other = path.parent / named[1].decode(errors="replace") if named else path
    if named and named[1] != b"LOCAL":
        if other.is_file():
            _unzip(other, 0)
    elif end:
        _unzip(path, end.end())


def _unzip(path: Path, start: int) -> None:
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    with path.open("rb") as file:
        file.seek(start)
        while not stream.eof and (block := file.read(_BLOCK)):
            stream.decompress(block)
    if not stream.eof:
        raise ValueError("the compressed voxels end too early")


def _ras_affine(image: sitk.Image) -> np.ndarray:
    spacing, origin = image.GetSpacing(), image.GetOrigin()
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (len(spacing), len(spacing)))
    affine[:3, :3] = direction[:3, :3] * spacing[:3]
    affine[:3, 3] = origin[:3]
    return LPS_TO_RAS @ affine
