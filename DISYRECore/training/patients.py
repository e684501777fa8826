"""Whose scans they are, and how patients are split into those that are learnt from and those that are held out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import SimpleITK as sitk

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_exists, image_suffix, short_name
from DISYRECore.io.read import scans_in

HELD_OUT_SHARE = 0.15
"""Of the patients for validation, and again for calibration; at least one each."""

FEW = 4
"""A folder with no more scans than this is one patient, where all scans lie in such folders."""

_CONTRAST = r"t1(w|c|ce|gd|post|pre)?|t2(w|star)?|t2-?flair|flair|pdw?|mprage|mp2rage|swi|dwi|adc"
_STATE = r"brain|head|stripped|bet|n4|ras|preproc|iso|before|after|baseline|followup|\d+mm"
_OF_SCAN = re.compile(rf"({_CONTRAST}|{_STATE}|(ses|session|run|visit|tp|acq|rec|dir|space|desc|res)\d*)$")
_ENTITY = re.compile(r"(?<![a-z0-9])(ses|run|acq|rec|dir|space|desc|res)-[a-z0-9]+")
_TRUTH = re.compile(r"(^|[-_. ])(mask|seg|dseg|aseg|labels?|lesions?|probseg)([-_. ]|$)")


@dataclass(frozen=True)
class ScanFile:
    """A scan and whose it is.

    Attributes:
        path: Image file or DICOM folder.
        patient: The same for all scans of a patient; never a name or an ID out of a DICOM header.
    """

    path: Path
    patient: str


@dataclass(frozen=True)
class Split:
    """Scans by what they are for; no patient is in two of them.

    Attributes:
        train: Learnt from.
        validation: For figures during the run, and the choice of the best weights.
        calibration: Not looked at before the end; empty for two patients.
    """

    train: tuple[ScanFile, ...]
    validation: tuple[ScanFile, ...]
    calibration: tuple[ScanFile, ...] = ()

    def in_words(self) -> str:
        """Who is in which part, a line each."""
        lines = []
        for name, part in vars(self).items():
            patients = sorted({scan.patient for scan in part})
            listed = f": {', '.join(patients)}" if patients else ""
            lines.append(f"{name}: {len(part)} scans of {len(patients)} patients{listed}")
        return "\n".join(lines)


def all_scans(root: Path) -> list[Path]:
    """All scans in a folder and its subfolders, sorted; masks and label images are left out by their names."""
    folders = sorted(Path(folder) for folder, _, _ in os.walk(root))
    visible = [one for one in folders if not _is_apart(one.relative_to(root))]
    scans = [scan for folder in visible for scan in _scans_of(folder)]
    return [scan for scan in scans if not _TRUTH.search(_stem(scan))]


def find_patients(
    folder: Path, exclude: Sequence[str] = (), find: Callable[[Path], list[Path]] = all_scans
) -> list[ScanFile]:
    """All scans of a folder and its subfolders, with the patient of each.

    Patients are told apart by the subject of BIDS names, by the PatientID of DICOM files, by folders where each holds
    few scans, and otherwise by file names without what names a contrast or a session.

    Args:
        folder: A plain folder, DICOM, BIDS, or a folder with the scans in ``images``.
        exclude: Patterns of paths relative to `folder` that are left out.
        find: Lists the scans in a folder.

    Returns:
        In the order of their paths.

    Raises:
        DisyreError: There is no such folder, or no scan in it.
    """
    check_exists(folder)
    root = image_root(folder)
    paths = [path for path in find(root) if not is_excluded(path, folder, exclude)]
    if not paths:
        raise DisyreError(f"{short_name(folder)} holds no scans; give one with DICOM, NIfTI, NRRD or MHA files.")
    keys = [_key(path, root, _are_patients(paths, root)) for path in paths]
    return [ScanFile(path, name) for path, name in zip(paths, _named(keys), strict=True)]


def image_root(folder: Path) -> Path:
    """Where the scans of a folder lie: in ``images`` where there is such a folder."""
    return folder / "images" if (folder / "images").is_dir() else folder


def is_excluded(path: Path, folder: Path, exclude: Iterable[str]) -> bool:
    """Whether one of the patterns names a path, relative to a folder."""
    relative = path.relative_to(folder).as_posix()
    return any(fnmatch(relative, pattern) or fnmatch(path.name, pattern) for pattern in exclude)


def split_by_patient(scans: Sequence[ScanFile], seed: int) -> Split:
    """Splits patients at random; a patient who joins moves hardly any of the others.

    Raises:
        DisyreError: There are fewer than two patients.
    """
    ranked = sorted({scan.patient for scan in scans}, key=lambda name: _digest(f"{seed} {name}"))
    if len(ranked) < 2:
        raise DisyreError("All scans are of one patient; give healthy scans of two patients or more.")
    held = max(1, round(HELD_OUT_SHARE * len(ranked)))
    ends = (held, 2 * held if len(ranked) > 2 else held)
    parts = ranked[ends[1] :], ranked[: ends[0]], ranked[ends[0] : ends[1]]
    return Split(*(tuple(scan for scan in scans if scan.patient in part) for part in parts))


def _is_apart(folder: Path) -> bool:
    """Whether a folder below the root is hidden or holds what others made of the scans."""
    return "derivatives" in folder.parts or any(part[0] in "._" for part in folder.parts)


def _scans_of(folder: Path) -> list[Path]:
    """The scans right in a folder; image files beside DICOM files are scans, too."""
    scans = scans_in(folder)
    if scans != [folder]:
        return scans
    return [folder, *sorted(file for file in folder.iterdir() if image_suffix(file) and file.name[0] != ".")]


def _are_patients(paths: Sequence[Path], root: Path) -> bool:
    """Whether the folders right under the root are patients: all scans lie in some, few in each."""
    tops = [path.relative_to(root).parts[0] for path in paths if len(path.relative_to(root).parts) > 1]
    return len(tops) == len(paths) and max(map(tops.count, set(tops))) <= FEW


def _key(path: Path, root: Path, folders_are_patients: bool) -> tuple[str, str]:
    """What tells a patient, and by what."""
    relative = path.relative_to(root)
    subject = re.search(r"sub-[A-Za-z0-9]+", relative.as_posix())
    if subject:
        return "bids", subject[0]
    number = _patient_id(path) if path.is_dir() else ""
    if number:
        return "dicom", _digest(number)
    if folders_are_patients:
        return "folder", relative.parts[0]
    rest = "-".join(t for t in re.split(r"[-_. ]+", _ENTITY.sub("", _stem(path))) if t and not _OF_SCAN.match(t))
    parent = relative.parent.as_posix()
    return "name", rest or (parent if parent != "." else _stem(path))


def _named(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Names that can be shown: DICOM patients are numbered."""
    dicom = list(dict.fromkeys(key for key in keys if key[0] == "dicom"))
    return [f"DICOM patient {dicom.index(key) + 1}" if key[0] == "dicom" else key[1] for key in keys]


def _patient_id(folder: Path) -> str:
    """The PatientID in a DICOM folder; empty where there is none."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    for file in sorted(folder.iterdir()):
        with suppress(RuntimeError, UnicodeDecodeError):
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            return str(reader.GetMetaData("0010|0020")).strip() if reader.HasMetaDataKey("0010|0020") else ""
    return ""


def _stem(path: Path) -> str:
    return path.name.lower().removesuffix(image_suffix(path))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
