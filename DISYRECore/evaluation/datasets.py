"""Readers of dataset layouts: each a function from a folder to the cases that it should hold.

A reader goes by names alone and lists missing files too; `read_dataset` leaves out what is incomplete and says
so. Only scans that lie in the space of their lesion mask are listed. Any label above 0.5 is lesion, so that
the truth of BraTS is the whole tumour; the one exception is label 2 of the WMH challenge, see `read_wmh`.
"""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid, same_grid
from DISYRECore.io.read import read_mask, read_volume
from DISYRECore.io.volume import Volume, resample

CONTRASTS = ("T1", "T2", "FLAIR", "T1CE", "unknown")
_NAMES_SHOWN = 5
_RESAMPLED = "resampled by nearest neighbour, since a mask lies on another grid"


@dataclass(frozen=True)
class Case:
    """One scan of a dataset on disk, with its truth.

    Attributes:
        name: Unique in the dataset, made of the dataset's own identifiers.
        subject: Scans of one person share it; intervals and paired tests draw subjects.
        contrast: One of `CONTRASTS`.
        scan: NIfTI file.
        truth: NIfTI file with the lesion mask; None where the dataset says that there is no lesion.
        brain_mask: NIfTI file, if the dataset has one.
        healthy: Whether the dataset says that there is no lesion.
        ignored_label: A label of the truth that is no lesion.
    """

    name: str
    subject: str
    contrast: str
    scan: Path
    truth: Path | None
    brain_mask: Path | None
    healthy: bool
    ignored_label: int | None = None

    def load(self) -> tuple[Volume, np.ndarray, np.ndarray | None]:
        """Scan, truth and brain mask (if any), the masks bool on the scan's grid, the truth within the brain.

        Raises:
            DisyreError: A file cannot be read, the brain mask is empty, or a mask does not overlap the scan.
        """
        try:
            scan = read_volume(self.scan)
            truth = self._read_truth(scan.grid)
            brain = None if self.brain_mask is None else read_mask(self.brain_mask, scan.grid)
        except DisyreError as error:
            raise DisyreError(f"{self.name}: {error}", error.kind) from error
        return scan, truth if brain is None else truth & brain, brain

    def labels(self) -> list[int]:
        """Labels other than 0 in the file of the truth, rising; none where there is no file.

        Raises:
            DisyreError: The file cannot be read.
        """
        if self.truth is None:
            return []
        found = np.unique(np.rint(read_volume(self.truth).voxels)).astype(int).tolist()
        return [label for label in found if label not in (0, self.ignored_label)]

    def _read_truth(self, grid: Grid) -> np.ndarray:
        if self.truth is None:
            if not self.healthy:
                raise DisyreError("there is no lesion mask; add it or leave the case out.")
            return np.zeros(grid.shape, bool)
        marked = read_mask(self.truth, grid, allow_empty=True)
        if self.ignored_label is None or not marked.any():
            return marked
        labels = read_volume(self.truth)
        ignored = replace(labels, voxels=np.rint(labels.voxels) == self.ignored_label)
        return marked & ~resample(ignored, grid, order=0).voxels


@dataclass(frozen=True)
class Dataset:
    """The complete cases of a folder.

    Attributes:
        cases: Sorted by name.
        layout: Key of `LAYOUTS`.
        warnings: Sentences: what was left out and why, which masks lie on another grid than their scan.
    """

    cases: list[Case]
    layout: str
    warnings: list[str]


def read_dataset(folder: Path | str, layout: str = "auto", contrasts: Iterable[str] | None = None) -> Dataset:
    """Lists the cases of a dataset; of the images, only headers are read.

    Args:
        folder: Where the dataset was unpacked.
        layout: Key of `LAYOUTS`, or ``auto``.
        contrasts: Those wanted, of `CONTRASTS`; all when None.

    Raises:
        DisyreError: No such folder, layout or contrast; nothing found; several layouts found; no complete case.
    """
    folder, wanted = Path(folder), set(CONTRASTS if contrasts is None else contrasts)
    if not folder.is_dir():
        raise DisyreError(f"There is no folder {folder}; check the path.")
    if unknown := sorted(wanted - set(CONTRASTS)):
        raise DisyreError(f"'{unknown[0]}' is not a contrast; choose from {', '.join(CONTRASTS)}.")
    layout, found = _find_cases(folder, layout)
    chosen = sorted((case for case in found if case.contrast in wanted), key=lambda case: (case.name, case.scan))
    if not chosen:
        there = ", ".join(sorted({case.contrast for case in found}))
        raise DisyreError(f"{folder} has no {' or '.join(sorted(wanted))} scans; choose from {there}.")
    cases, notes = _sort_out(chosen)
    told = [f"{note}: {_list(names)}" for note, names in notes.items()]
    if not cases:
        raise DisyreError(f"{folder} has no complete case of layout {layout} ({'; '.join(told)}); add the files.")
    return Dataset(cases, layout, [f"{text[0].upper()}{text[1:]}." for text in told])


def _find_cases(folder: Path, layout: str) -> tuple[str, list[Case]]:
    if layout not in ("auto", *LAYOUTS):
        raise DisyreError(f"'{layout}' is not a dataset layout; choose from auto, {', '.join(LAYOUTS)}.")
    tried = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    found = {name: cases for name, one in tried.items() if (cases := one.read(folder))}
    if not found:
        sought = "; ".join(f"{one.pattern} ({name})" for name, one in tried.items())
        raise DisyreError(f"{folder} holds no dataset of a known layout; looked for {sought}.")
    if len(found) > 1:
        raise DisyreError(f"{folder} looks like {' and like '.join(found)}; name the layout or give a subfolder.")
    return next(iter(found.items()))


def _sort_out(cases: list[Case]) -> tuple[list[Case], dict[str, list[str]]]:
    """Usable cases, and notes with the names of the cases that they are about."""
    usable: dict[str, Case] = {}
    notes: dict[str, list[str]] = {}
    for case in cases:
        note = "left out, since the name occurs twice" if case.name in usable else _examine(case)
        if note:
            notes.setdefault(note, []).append(case.name)
        if note in ("", _RESAMPLED):
            usable[case.name] = case
    return list(usable.values()), notes


def _examine(case: Case) -> str:
    """Why a case is left out, or `_RESAMPLED`, or nothing."""
    files = {"scan": case.scan, "brain mask": case.brain_mask, "lesion mask": case.truth}
    grids = {kind: _header_grid(path) for kind, path in files.items() if path}
    if case.truth is None and not case.healthy:
        grids["lesion mask"] = None
    for kind, grid in grids.items():
        if grid is None:
            return f"left out, since the {kind} is missing or unreadable"
    scan, *masks = [grid for grid in grids.values() if grid]
    return "" if all(same_grid(mask, scan) for mask in masks) else _RESAMPLED


def _header_grid(path: Path) -> Grid | None:
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error):
        return None
    return Grid(image.shape[:3], np.asarray(image.affine, dtype=float)) if len(image.shape) > 2 else None


def _list(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- layouts


def read_synthetic(folder: Path) -> list[Case]:
    """A folder written by `write_test_set` or `write_patients`; lesions of kind ``none`` are healthy."""
    try:
        entries = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["cases"]
        return [_synthetic_case(folder, entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _synthetic_case(folder: Path, entry: dict[str, str]) -> Case:
    """Scans of patients name their subject and their files; other cases are folders of their own."""
    name, healthy = entry["name"], entry["kind"] == "none"
    parts = ("scan", "truth", "brain_mask")
    files = [entry[part] if "subject" in entry else f"{name}/{part}" for part in parts]
    scan, truth, brain = (_image(folder / file) for file in files)
    known = entry["contrast"] if entry["contrast"] in CONTRASTS else "unknown"
    subject = entry.get("subject", name)
    return Case(name, subject, known, scan, None if healthy and not truth.is_file() else truth, brain, healthy)


_BRATS_FOLDER = re.compile(r"(BraTS20_[A-Za-z]+_\d+|BraTS2021_\d+|BraTS-[A-Z]+-\d+)(-\d+)?")
_BRATS_ENDINGS = {
    "_": {"_flair": "FLAIR", "_t1": "T1", "_t1ce": "T1CE", "_t2": "T2"},
    "-": {"-t2f": "FLAIR", "-t1n": "T1", "-t1c": "T1CE", "-t2w": "T2"},
}


def read_brats(folder: Path) -> list[Case]:
    """BraTS 2020, 2021 and 2023, at any depth; the sessions of a 2023 patient share the subject."""
    cases = []
    for place in folder.rglob("BraTS*"):
        if (match := _BRATS_FOLDER.fullmatch(place.name)) and place.is_dir():
            separator = "-" if place.name.startswith("BraTS-") else "_"
            truth = _image(place / f"{place.name}{separator}seg")
            for ending, contrast in _BRATS_ENDINGS[separator].items():
                scan = _image(place / f"{place.name}{ending}")
                cases.append(Case(f"{place.name}_{contrast}", match[1], contrast, scan, truth, None, False))
    return cases


_ATLAS_SCAN = re.compile(r"((sub-r\d+s\d+)_ses-\w+?)(_space-[A-Za-z0-9]+)(_desc-brain)?_T1w\.nii(\.gz)?")


def read_atlas(folder: Path) -> list[Case]:
    """ATLAS v2.0 (R2.0), template or original space, at any depth; its test set has no masks."""
    cases = []
    for scan in folder.rglob("sub-r*_T1w.nii*"):
        if match := _ATLAS_SCAN.fullmatch(scan.name):
            masks = sorted(scan.parent.glob(f"{match[1]}{match[3]}_*desc-T1lesion_mask.nii*"))
            truth = masks[0] if masks else None
            cases.append(Case(f"{match[1]}_T1", match[2], "T1", scan, truth, None, False))
    return cases


_MSLUB_CONTRASTS = {"FLAIR": "FLAIR", "T1W": "T1", "T1WKS": "T1CE", "T2W": "T2"}


def read_mslub(folder: Path) -> list[Case]:
    """MSLUB, cross-sectional: co-registered scans, at any depth, file names with or without the patient's number.

    Scans below ``raw`` are not in the space of the consensus mask and are passed over.
    """
    cases = []
    for place in folder.rglob("patient*"):
        truth = _with_prefix(place, "consensus_gt")
        if place.parent.name == "raw" or not (truth.is_file() or _with_prefix(place, "T1WKS").is_file()):
            continue
        brain = _with_prefix(place, "brainmask")
        for file, contrast in _MSLUB_CONTRASTS.items():
            name, scan = f"{place.name}_{contrast}", _with_prefix(place, file)
            cases.append(Case(name, place.name, contrast, scan, truth, brain if brain.is_file() else None, False))
    return cases


def read_wmh(folder: Path) -> list[Case]:
    """WMH challenge 2017: the bias-corrected, aligned scans in ``pre``, at any depth.

    Label 2 (other pathology) is no lesion here. The challenge leaves its voxels out of the count altogether;
    here they count as free of lesion, so that a finding there is a false positive.
    """
    places = {path.parent for path in folder.rglob("wmh.nii*")}
    places |= {path.parent.parent for path in folder.rglob("pre/FLAIR.nii*")}
    cases = []
    for place in places:
        subject = "-".join(place.relative_to(folder).parts) or place.name
        for contrast in ("T1", "FLAIR"):
            scan = _image(place / "pre" / contrast)
            name, truth = f"{subject}_{contrast}", _image(place / "wmh")
            cases.append(Case(name, subject, contrast, scan, truth, None, False, ignored_label=2))
    return cases


_IXI_SCAN = re.compile(r"((IXI\d+)-[A-Za-z]+-\d+[-_](T1|T2)(_brain(_\d+mm)?)?)\.nii(\.gz)?")


def read_ixi(folder: Path) -> list[Case]:
    """IXI, at any depth, brain-extracted copies (``_T1_brain``) too; everybody is healthy. PD, MRA and DTI stay out."""
    matches = ((scan, _IXI_SCAN.fullmatch(scan.name)) for scan in folder.rglob("IXI*.nii*"))
    return [Case(match[1], match[2], match[3], scan, None, None, True) for scan, match in matches if match]


_BIDS_CONTRASTS = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR"}
_OWN_SPACES = (None, "orig", "individual", "scanner", "native", *_BIDS_CONTRASTS)
_TISSUES = ("BG", "WM", "GM", "SGM", "CGM", "CSF", "BN", "ST", "brain")
_HEALTHY_GROUPS = ("control", "controls", "healthy", "healthy control", "hc")


def read_bids(folder: Path) -> list[Case]:
    """Plain BIDS: scans in ``sub-*/[ses-*/]anat``, lesion masks in ``derivatives``, groups in participants.tsv.

    A mask (``_mask`` or ``_dseg``, with ``lesion`` or a ``label-`` that is no tissue in its name, not in a
    template's space) belongs to a scan when no entity of its name contradicts the scan's; of several, the one
    that names a lesion, then the one that shares most entities, then the first by name. Whoever has the group
    or diagnosis control or healthy is healthy.
    """
    healthy = _healthy_participants(folder / "participants.tsv")
    masks = sorted(path for path in folder.glob("derivatives/**/sub-*.nii*") if _is_lesion_mask(path))
    scans = [scan for anat in ("anat", "ses-*/anat") for scan in folder.glob(f"sub-*/{anat}/sub-*.nii*")]
    return [_bids_case(scan, masks, healthy) for scan in scans if _bids_contrast(scan)]


def _bids_case(scan: Path, masks: list[Path], healthy: set[str]) -> Case:
    subject, contrast = f"sub-{_entities(scan)['sub']}", _bids_contrast(scan)
    name = f"{_stem(scan).rpartition('_')[0]}_{contrast}"
    truth = None if subject in healthy else _mask_of(scan, masks)
    return Case(name, subject, contrast, scan, truth, None, subject in healthy)


def _bids_contrast(scan: Path) -> str:
    """Empty for what is no scan."""
    contrast, entities = _BIDS_CONTRASTS.get(_stem(scan).rpartition("_")[2], ""), _entities(scan)
    if "space" in entities:
        return ""
    return "T1CE" if contrast == "T1" and "ce" in entities else contrast


def _is_lesion_mask(path: Path) -> bool:
    entities = _entities(path)
    named = "lesion" in path.name.lower() or entities.get("label", "brain") not in _TISSUES
    return named and _stem(path).endswith(("_mask", "_dseg")) and entities.get("space") in _OWN_SPACES


def _mask_of(scan: Path, masks: list[Path]) -> Path | None:
    own = _entities(scan)
    shared = {mask: own.keys() & _entities(mask).keys() for mask in masks}
    fitting = [mask for mask, keys in shared.items() if all(own[key] == _entities(mask)[key] for key in keys)]
    return max(fitting, key=lambda mask: ("lesion" in mask.name.lower(), len(shared[mask])), default=None)


def _healthy_participants(table: Path) -> set[str]:
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    groups = ((row.get("participant_id"), row.get("group") or row.get("diagnosis") or "") for row in rows)
    return {name for name, group in groups if name and group.strip().lower() in _HEALTHY_GROUPS}


def _entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS name."""
    return {key: value for key, _, value in (part.partition("-") for part in _stem(path).split("_")) if value}


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _image(stem: Path) -> Path:
    """The .nii file of that name if it is the only one, else the .nii.gz file, there or not."""
    plain, packed = (stem.with_name(stem.name + suffix) for suffix in (".nii", ".nii.gz"))
    return plain if plain.is_file() and not packed.is_file() else packed


def _with_prefix(place: Path, name: str) -> Path:
    """The file of that name, with the name of its folder before it if there is such a file."""
    prefixed = _image(place / f"{place.name}_{name}")
    return prefixed if prefixed.is_file() else _image(place / name)


class Layout(NamedTuple):
    """A dataset layout.

    Attributes:
        read: From a folder to cases, which may lack files; empty when the folder has another layout.
        pattern: What it looks for.
    """

    read: Callable[[Path], list[Case]]
    pattern: str


LAYOUTS = {
    "synthetic": Layout(read_synthetic, "dataset.json of 'disyre synthesize'"),
    "brats": Layout(read_brats, "BraTS*/BraTS*_flair.nii.gz or -t2f.nii.gz"),
    "atlas": Layout(read_atlas, "sub-r*s*_ses-*_space-*_T1w.nii.gz"),
    "mslub": Layout(read_mslub, "coregistered/patient*/consensus_gt.nii.gz"),
    "wmh": Layout(read_wmh, "pre/FLAIR.nii.gz beside wmh.nii.gz"),
    "ixi": Layout(read_ixi, "IXI*-T1.nii.gz"),
    "bids": Layout(read_bids, "sub-*/anat/sub-*_T1w.nii.gz"),
}
