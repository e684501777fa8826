"""Reading DICOM: which images of a folder form a volume, which volume is meant, and where its slices lie.

An image of a classic series and a frame of an enhanced one are the same here: something with a place. Those of one
series, size, direction, echo and image type form a stack, ordered by its places alone.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from DISYRECore.errors import DisyreError
from DISYRECore.io.checks import check_shape, damaged
from DISYRECore.io.files import image_suffix, short_name
from DISYRECore.io.grid import LPS_TO_RAS
from DISYRECore.io.volume import Volume

OTHER_WORDS = "swi|swan|dwi|adc|dti|tof|mra|mrv|bold|asl|perf|perfusion|dsc|cbf|cbv|stir|ct|pet|localizer|scout"
"""Words in the names of series that show no anatomy in T1, T2 or FLAIR, joined by ``|``."""

NOT_IMAGES = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT", "RTDOSE", "RTPLAN")
PARAMETRIC_MAP, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.7"
NOT_MAGNITUDE = {"P", "PHASE", "R", "REAL", "I", "IMAGINARY", "PHASE MAP"}

T2_ECHO_MS = 90.0
"""Of several echoes the one nearest to this is read: lesions are brightest there."""

SAME_PLACE_MM, SAME_COSINE = 0.01, 5e-3
UNEVEN = 0.1
"""Share of the distance between slices by which one may lie elsewhere than expected."""

TILT_DEGREES, LARGEST_TILT_DEGREES = 0.2, 45.0
NAMED_SERIES = 5
PIXEL_GROUP = 0x7FE0

_TAGS = [
    "SOPClassUID", "ImageType", "Modality", "SeriesDescription", "ProtocolName", "SeriesInstanceUID", "SeriesNumber",
    "StudyInstanceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "EchoTime", "RepetitionTime", "InversionTime",
    "BitsAllocated", "ScanningSequence", "ContrastBolusAgent",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frame:
    """A 2D image with a place.

    Attributes:
        file: That holds it.
        index: Of the frame within the file.
        tags: Its header; functional groups stand in it like other tags.
        rescale: Factor and offset of its voxels after the reader has rescaled all frames of a file alike.
    """

    file: Path
    index: int
    tags: Dataset
    rescale: tuple[float, float] = (1.0, 0.0)

    @property
    def echo_ms(self) -> float | None:
        """Echo time, where it is told."""
        value = self.tags.get("EffectiveEchoTime") or self.tags.get("EchoTime")
        return None if value is None else round(float(value), 2)

    @property
    def image_type(self) -> tuple[str, ...]:
        """Such as ORIGINAL, PRIMARY, M."""
        value = self.tags.get("FrameType") or self.tags.get("ImageType") or ()
        return (value,) if isinstance(value, str) else tuple(value)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Between rows, and between columns; empty where it is not told."""
        return _numbers(self.tags.get("PixelSpacing"), 2)

    @property
    def orientation(self) -> tuple[float, ...]:
        """Directions of a row and of a column in LPS; empty where they are not told."""
        return _numbers(self.tags.get("ImageOrientationPatient"), 6)

    @property
    def position_mm(self) -> tuple[float, ...]:
        """Centre of the first pixel in LPS; empty where it is not told."""
        return _numbers(self.tags.get("ImagePositionPatient"), 3)


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames that form a volume, if their places allow it.

    Attributes:
        frames: In the order of their places along the normal, where all are told.
    """

    frames: tuple[Frame, ...]

    @property
    def tags(self) -> Dataset:
        """Header of the first frame."""
        return self.frames[0].tags

    @property
    def series(self) -> str:
        """Identifier of its series."""
        return str(self.tags.get("SeriesInstanceUID", ""))

    @property
    def places(self) -> np.ndarray:
        """Positions (N, 3) in LPS mm; empty where one of them, the direction or the pixel size is not told."""
        told = all(f.position_mm and f.orientation and f.spacing_mm for f in self.frames)
        return np.array([f.position_mm for f in self.frames]) if told else np.empty((0, 3))

    @property
    def normal(self) -> np.ndarray:
        """Unit vector (3,) at right angles to the slices, LPS."""
        return _normal(self.frames[0].orientation)

    @property
    def repeats(self) -> bool:
        """Whether a place holds several images, as those of a function over time do."""
        return bool(len(self.places) > 1 and np.diff(self.places @ self.normal).min() < SAME_PLACE_MM)

    @property
    def is_anatomy(self) -> bool:
        """Whether neither its name nor its type says that it is something else."""
        name = re.sub(r"[\W_]+", " ", f"{self.tags.get('SeriesDescription', '')}".lower())
        other = re.search(rf"\b(?:{OTHER_WORDS})\b", name) or "LOCALIZER" in self.frames[0].image_type
        captured = str(self.tags.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE)
        return not (other or captured or NOT_MAGNITUDE & set(self.frames[0].image_type[2:]))

    @property
    def rank(self) -> tuple[bool, bool, bool, int, float]:
        """Larger for what is rather meant: no repeats, MR, anatomy, many slices, an echo near `T2_ECHO_MS`."""
        echo = self.frames[0].echo_ms
        near = -abs(echo - T2_ECHO_MS) if echo is not None else -np.inf
        return not self.repeats, self.tags.get("Modality") == "MR", self.is_anatomy, len(self.frames), near


def is_dicom(file: Path) -> bool:
    """Whether a file holds DICOM, by its first bytes; old ones have no preamble."""
    if file.name.upper() == "DICOMDIR" or image_suffix(file):
        return False
    with suppress(OSError), file.open("rb") as stream:
        start = stream.read(132)
        if start[128:] == b"DICM":
            return True
        return start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] == b"\0" and "SOPClassUID" in _header(file)[0]
    return False


def read_dicom(path: Path) -> Volume:
    """Reads a volume out of a folder with DICOM files, or out of one file of many frames.

    Of several series or echoes one is chosen by `Stack.rank`, and the notes say which. Slices lie where their positions
    say, also where these run oblique to the slices (gantry tilt).

    Args:
        path: A folder, looked at without its subfolders, or a file.

    Returns:
        float32 voxels, rescaled.

    Raises:
        DisyreError: No images, damaged ones, no 3D grey image, or slices that are missing, repeated or without place.
    """
    stack, notes = choose_stack(path)
    columns, rows = int(stack.tags.Columns), int(stack.tags.Rows)
    check_shape(path, (columns, rows, len(stack.frames)), int(stack.tags.get("SamplesPerPixel", 1)))
    if stack.tags.get("PhotometricInterpretation") == "MONOCHROME1":
        raise DisyreError(f"{short_name(path)} is stored with black and white exchanged; export it as MONOCHROME2.")
    affine, tilt = _affine(stack, path)
    if tilt > TILT_DEGREES:
        notes = (*notes, f"The slices are shifted against each other (a tilt of {tilt:.1f} degrees), and read so.")
    return Volume(_voxels(stack, path), affine, str(path), notes)


def choose_stack(path: Path) -> tuple[Stack, tuple[str, ...]]:
    """The stack that is meant, and what was chosen, in sentences.

    Raises:
        DisyreError: There are no images, or damaged ones.
    """
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file() and f.name[0] != ".")
    stacks = _stacks(frame for file in files if is_dicom(file) for frame in _frames(file))
    if not stacks:
        raise DisyreError(f"{short_name(path)} holds no DICOM images; give an image file or a DICOM folder.")
    chosen = max(stacks, key=lambda stack: stack.rank)
    return chosen, _choices(chosen, stacks)


def _stacks(frames: Iterable[Frame]) -> list[Stack]:
    groups: dict[tuple[object, ...], list[list[Frame]]] = {}
    for frame in frames:
        tags = frame.tags
        key = (tags.get("SeriesInstanceUID"), tags.Rows, tags.Columns, frame.echo_ms, frame.image_type)
        alike = groups.setdefault(key, [])
        own = next((group for group in alike if _are_parallel(group[0], frame)), None)
        if own is None:
            alike.append([frame])
        else:
            own.append(frame)
    return [_ordered(group) for alike in groups.values() for group in alike]


def _are_parallel(one: Frame, other: Frame) -> bool:
    """Whether two frames have the same direction and pixel size; what is not told may be the same."""
    pairs = ((one.orientation, other.orientation), (one.spacing_mm, other.spacing_mm))
    return all(not a or not b or np.allclose(a, b, atol=SAME_COSINE) for a, b in pairs)


def _ordered(frames: list[Frame]) -> Stack:
    if not len(Stack(tuple(frames)).places):
        return Stack(tuple(frames))
    normal = _normal(frames[0].orientation)
    return Stack(tuple(sorted(frames, key=lambda frame: float(np.dot(frame.position_mm, normal)))))


def _normal(orientation: Sequence[float]) -> np.ndarray:
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / max(float(np.linalg.norm(normal)), 1e-9)


def _choices(chosen: Stack, stacks: list[Stack]) -> tuple[str, ...]:
    notes = []
    series = {stack.series: stack for stack in sorted(stacks, key=lambda stack: stack.rank)}
    if len(series) > 1:
        others = [_series_name(stack, stacks) for uid, stack in series.items() if uid != chosen.series]
        more = f" and {len(others) - NAMED_SERIES} more" if len(others) > NAMED_SERIES else ""
        left_out = ", ".join(others[-NAMED_SERIES:]) + more
        name = _series_name(chosen, stacks)
        notes.append(f"Of {len(series)} DICOM series {name} was read, not {left_out}.")
    own = [stack for stack in stacks if stack.series == chosen.series]
    if len(own) > 1:
        notes.append(f"Of {len(own)} sets of images in the DICOM series the one with {_set_name(chosen)} was read.")
    return tuple(notes)


def _series_name(stack: Stack, stacks: list[Stack]) -> str:
    words = re.sub(r"[^\w .+*-]", " ", str(stack.tags.get("SeriesDescription", ""))).strip()[:40]
    count = sum(len(one.frames) for one in stacks if one.series == stack.series)
    return (
        f"{stack.tags.get('SeriesNumber') or 'without number'} ({', '.join(filter(None, (words, f'{count} images')))})"
    )


def _set_name(stack: Stack) -> str:
    echo, kind = stack.frames[0].echo_ms, " ".join(stack.frames[0].image_type)
    told = [f"{len(stack.frames)} slices", f"echo time {echo:g} ms" if echo is not None else "", kind]
    return ", ".join(filter(None, told))


def _frames(file: Path) -> list[Frame]:
    """All images of a file; none for what is no image.

    Raises:
        DisyreError: It is damaged.
    """
    try:
        tags, pixel_bytes = _header(file)
        if tags.get("Modality") in NOT_IMAGES or tags.get("SOPClassUID") == PARAMETRIC_MAP or "Rows" not in tags:
            return []
        _check_pixels(tags, pixel_bytes)
        frames = _described(file, tags)
        for frame in frames:
            _ = frame.echo_ms, frame.image_type, frame.spacing_mm, frame.orientation, frame.position_mm
            _ = int(frame.tags.Rows), int(frame.tags.Columns), int(frame.tags.get("SamplesPerPixel") or 1)
    except Exception as error:  # whatever pydicom meets in a damaged file
        raise damaged(file) from error
    expected = int(tags.get("NumberOfFrames") or 1)
    if len(frames) != expected:
        raise DisyreError(f"{file.name} describes {len(frames)} of its {expected} frames; export the scan again.")
    return frames


def _header(file: Path) -> tuple[Dataset, int]:
    """The tags that are looked at, none for what is no DICOM; and how many bytes of pixels follow."""
    lengths = [0]

    def at_pixels(tag: BaseTag, representation: str | None, length: int) -> bool:
        lengths.append(length if tag.group == PIXEL_GROUP else 0)
        return tag.group == PIXEL_GROUP

    with warnings.catch_warnings(), suppress(InvalidDicomError), file.open("rb") as stream:
        warnings.simplefilter("ignore")
        return read_partial(stream, at_pixels, force=True, specific_tags=[Tag(name) for name in _TAGS]), lengths[-1]
    return Dataset(), 0


def _described(file: Path, tags: Dataset) -> list[Frame]:
    """The frames of a file; of functional groups, those of the frame come before shared ones."""
    if "PerFrameFunctionalGroupsSequence" not in tags:
        return [Frame(file, index, tags) for index in range(int(tags.get("NumberOfFrames") or 1))]
    shared, own = list(tags.get("SharedFunctionalGroupsSequence") or [])[:1], tags.PerFrameFunctionalGroupsSequence
    plain = Dataset({element.tag: element for element in tags if element.VR != "SQ"})
    told = [_merged(plain, [*shared, groups]) for groups in own]
    slope, intercept = _rescale(_merged(told[0], shared))  # GDCM takes the shared group, else that of the first frame
    rescales = [(a / slope, b - intercept * a / slope) for a, b in map(_rescale, told)]
    return [Frame(file, index, one, rescale) for index, (one, rescale) in enumerate(zip(told, rescales, strict=True))]


def _rescale(tags: Dataset) -> tuple[float, float]:
    return float(tags.get("RescaleSlope", 1)) or 1.0, float(tags.get("RescaleIntercept", 0))


def _check_pixels(tags: Dataset, pixel_bytes: int) -> None:
    """Raises ValueError where pixels are fewer than the header says; GDCM makes up the others.

    Compressed ones have the largest length there is, and GDCM notices what they lack.
    """
    size = int(tags.Rows) * int(tags.Columns) * int(tags.get("NumberOfFrames") or 1)
    if pixel_bytes < size * int(tags.get("SamplesPerPixel") or 1) * int(tags.BitsAllocated) // 8:
        raise ValueError("fewer pixels than the header says")


def _merged(plain: Dataset, groups: list[Dataset]) -> Dataset:
    merged = Dataset()
    merged.update(plain)
    for element in (element for group in groups for element in group):
        if element.VR == "SQ" and element.value:
            merged.update(element.value[0])
    return merged


def _numbers(value: Sequence[float] | None, count: int) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in value or ())
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _affine(stack: Stack, path: Path) -> tuple[np.ndarray, float]:
    """Voxel index to RAS mm, and the angle in degrees between the way from slice to slice and the normal.

    Raises:
        DisyreError: A slice has no place, or slices are missing or repeated.
    """
    name, places = short_name(path), stack.places
    if not len(places):
        raise DisyreError(f"{name} has images without position, direction or pixel size; export the series again.")
    if stack.repeats:
        raise DisyreError(f"{name} holds several images of one slice (4D); give one frame.")
    rows_mm, columns_mm = stack.frames[0].spacing_mm
    orientation = np.array(stack.frames[0].orientation).reshape(2, 3)
    if not np.allclose(orientation @ orientation.T, np.eye(2), atol=0.01):
        raise DisyreError(f"{name} has no valid position in space; export the scan again.")
    step = (places[-1] - places[0]) / max(len(places) - 1, 1)
    expected = places[0] + np.arange(len(places))[:, None] * step
    if np.linalg.norm(places - expected, axis=1).max() > UNEVEN * np.linalg.norm(step):
        raise DisyreError(f"{name} has missing or unevenly spaced slices; export it again.")
    tilt = float(np.degrees(np.arccos(np.clip(step @ stack.normal / np.linalg.norm(step), -1, 1))))
    if tilt > LARGEST_TILT_DEGREES:
        raise DisyreError(f"{name} has slices that do not lie above each other; export the series again.")
    if tilt < TILT_DEGREES:
        step = stack.normal * (step @ stack.normal)
    affine = np.eye(4)
    affine[:3] = np.column_stack([orientation[0] * columns_mm, orientation[1] * rows_mm, step, places[0]])
    return LPS_TO_RAS @ affine, tilt


def _voxels(stack: Stack, path: Path) -> np.ndarray:
    """(X, Y, Z) float32 in the order of the frames.

    Raises:
        DisyreError: The pixels of a file cannot be read, or are not those of its header.
    """
    shape = int(stack.tags.Columns), int(stack.tags.Rows), len(stack.frames)
    voxels = np.empty(shape, np.float32)
    images: dict[Path, np.ndarray] = {}
    left = Counter(frame.file for frame in stack.frames)
    for k, frame in enumerate(stack.frames):
        image = images.pop(frame.file, None)
        if image is None:
            image = _pixels(frame.file)
        if frame.index >= len(image) or image.shape[1:] != shape[1::-1]:
            raise damaged(path)
        factor, offset = frame.rescale
        voxels[:, :, k] = image[frame.index].T * factor + offset
        left[frame.file] -= 1
        if left[frame.file]:
            images[frame.file] = image
    return voxels


def _pixels(file: Path) -> np.ndarray:
    """(frame, row, column) float32, rescaled.

    Raises:
        DisyreError: They cannot be read.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise damaged(file) from error
    return image.reshape(-1, *image.shape[-2:])
