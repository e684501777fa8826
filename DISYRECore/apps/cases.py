"""What a cohort consists of: cases and their names, from files, folders, BIDS datasets and CSV tables.

The name of a case is the path of its scan below the input, without the ending: it depends on no other scan, so that a
scan more never gives a name to someone else.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from DISYRECore.apps.output import holds_result, result_files
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_exists, image_suffix, short_name

Find = Callable[[Path | str], list[Path]]
"""Lists the scans in a folder, see `modalities.base.Modality`."""

BIDS_DESCRIPTION = "dataset_description.json"
CONTRASTS = ("T1", "T2", "FLAIR")
COLUMNS = ("scan", "case", "mask", "contrast")
"""Of a CSV table; all but the first may be absent."""

_LABELS = re.compile(
    r"(?:^|[\W_])(?:[a-z]*mask|msk|d?seg|probseg|segmentation|labels?|labelmap|aseg|aparc|parcellation|rois?|truth|gt"
    r"|annotations?)\d*$",
    re.IGNORECASE,
)
"""How names of masks and label maps end; others are recognised when they are read."""

_DETACHED = (".mhd", ".nhdr")


@dataclass(frozen=True)
class Case:
    """A scan, or the scans of a patient that are taken together.

    Attributes:
        name: Path of its result below the output folder, with ``/``; empty where that is the output folder itself.
        scans: Absolute paths as the user has them; links are not followed.
        mask: File with a brain mask; found when None.
        contrast: Recognised when None.
        found: Whether it was found in a folder, where it may turn out to be a label map, rather than named by the user.
    """

    name: str
    scans: tuple[Path, ...]
    mask: Path | None = None
    contrast: str | None = None
    found: bool = False

    @property
    def title(self) -> str:
        """Heading of its report; a DICOM folder, which may be called like a patient, is not named unless many are."""
        if self.name or len(self.scans) > 1:
            return self.name or f"Study of {len(self.scans)} scans"
        return "DICOM series" if self.scans[0].is_dir() else self.scans[0].name

    def content_sha256(self) -> str:
        """Of everything that is read for it, names of files included since they may tell the contrast."""
        digest = hashlib.sha256(repr((self.contrast, self.mask is not None)).encode())
        for path in [*self.scans, *([self.mask] if self.mask else [])]:
            digest.update(path.name.encode())
            for file in _files_of(path):
                digest.update(_sha256(file))
        return digest.hexdigest()


@dataclass(frozen=True)
class Found:
    """The cases of an input.

    Attributes:
        cases: In the order of their names.
        label_maps: Files that were left out since they are called like masks.
    """

    cases: tuple[Case, ...]
    label_maps: tuple[Path, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether the result goes into the output folder itself."""
        return [case.name for case in self.cases] == [""]


def find_cases(inputs: Sequence[Path], find: Find, output: Path, study: bool = False) -> Found:
    """The cases that inputs stand for.

    A file, a DICOM folder, or with `study` several files or a folder that holds the scans of one patient, is one case
    without a name. Everything else is a list of cases: `x/y.nii.gz` below a folder is called `x/y`; files of one folder
    that differ in their endings only keep them. Studies are the scans that lie side by side, or those of a BIDS subject
    and session.

    Args:
        inputs: Files and folders, or one CSV table with the columns `COLUMNS`, paths relative to its own folder.
        find: Of the modality.
        output: Where results go; nothing in it is taken for a scan.
        study: Whether to take the scans of a patient together.

    Raises:
        DisyreError: Something does not exist, there is no scan, a scan is named twice, or a table makes no sense.
    """
    inputs = [Path(os.path.abspath(path)) for path in inputs]
    for path in inputs:
        check_exists(path)
    if [path.suffix.lower() for path in inputs] == [".csv"]:
        return Found(_from_table(inputs[0], study))
    scans, label_maps = list[Path](), list[Path]()
    for path in inputs:
        below = [path] if path.is_file() else list(_scans_below(path, find, Path(os.path.abspath(output))))
        masks = [scan for scan in below if scan not in inputs and scan.is_file() and _LABELS.search(_stem(scan))]
        scans += [scan for scan in below if scan not in masks]
        label_maps += masks
    if not scans:
        named = " and ".join(short_name(path) for path in inputs)
        but = " other than masks" if label_maps else ""
        raise DisyreError(f"{named} holds no scans{but}; give one with DICOM, NIfTI, NRRD or MHA files.")
    return Found(_studies(inputs, scans) if study else _singles(inputs, scans), tuple(label_maps))


# --- folders


def _scans_below(root: Path, find: Find, output: Path) -> Iterator[Path]:
    """The scans in a folder and its subfolders, links followed, each once."""
    bids = (root / BIDS_DESCRIPTION).is_file()
    seen = set[Path]()
    for name, folders, _ in os.walk(root, followlinks=True):
        folder = Path(name)
        folders[:] = sorted(one for one in folders if _may_hold_scans(folder / one, root, output, bids))
        ours = set(result_files(folder)) if holds_result(folder) else set()
        for scan in _scans_in(folder, find):
            is_result = scan in ours or (scan != root and scan.is_dir() and holds_result(scan))
            if scan not in seen and not is_result:
                seen.add(scan)
                yield scan


def _may_hold_scans(folder: Path, root: Path, output: Path, bids: bool) -> bool:
    if folder.name.startswith(".") or folder == output:
        return False
    if folder.is_symlink() and Path(os.path.realpath(folder)) in [Path(os.path.realpath(up)) for up in folder.parents]:
        return False
    return not bids or bool(re.fullmatch(r"sub-[^/]+(/ses-[^/]+)?(/anat)?", folder.relative_to(root).as_posix()))


def _scans_in(folder: Path, find: Find) -> list[Path]:
    """The scans that lie in a folder itself, which may be one."""
    try:
        return [scan for scan in find(folder) if folder in (scan, scan.parent)]
    except DisyreError:
        return []


def _singles(inputs: Sequence[Path], scans: Sequence[Path]) -> tuple[Case, ...]:
    if list(scans) == list(inputs) and len(scans) == 1:
        return (Case("", tuple(scans)),)
    if len(inputs) > 1:
        return _named(_below_common(scans, inputs), inputs)
    root = inputs[0]
    places = [(scan, root.name if scan == root else scan.relative_to(root).as_posix()) for scan in scans]
    return _named(places, inputs)


def _named(places: Sequence[tuple[Path, str]], inputs: Sequence[Path]) -> tuple[Case, ...]:
    """Cases by scans and their paths below the input; the ending stays where another scan differs in it alone."""
    short = [str(PurePosixPath(place).with_name(_stem(scan))) for scan, place in places]
    count = Counter(short)
    names = [one if count[one] == 1 else place for one, (_, place) in zip(short, places, strict=True)]
    _check_names(names)
    return tuple(Case(name, (scan,), found=scan not in inputs) for name, (scan, _) in zip(names, places, strict=True))


def _studies(inputs: Sequence[Path], scans: Sequence[Path]) -> tuple[Case, ...]:
    if len(inputs) > 1 or inputs[0].is_file():
        return (Case("", tuple(scans)),)
    studies: dict[str, list[Path]] = {}
    for scan in scans:
        studies.setdefault(_study_of(scan, inputs[0]), []).append(scan)
    if len(studies) > 1 and "" in studies:
        studies[inputs[0].name] = [*studies.pop(""), *studies.get(inputs[0].name, [])]
    return tuple(Case(name, tuple(own), found=True) for name, own in sorted(studies.items()))


def _study_of(scan: Path, root: Path) -> str:
    """``sub-01/ses-1`` of a BIDS scan, otherwise the folders between a root and a scan."""
    entities = re.findall(r"(?:sub|ses)-[A-Za-z0-9]+", scan.name)
    return "/".join(entities or scan.relative_to(root).parts[:-1])


def _below_common(scans: Sequence[Path], inputs: Sequence[Path] = ()) -> list[tuple[Path, str]]:
    """Scans with their paths below the folder that all inputs, or else all scans, lie in."""
    try:
        root = os.path.commonpath([path.parent for path in inputs or scans])
    except ValueError as error:
        raise DisyreError("The scans lie on several drives; run them one by one, or name them in a table.") from error
    return [(scan, scan.relative_to(root).as_posix()) for scan in scans]


def _stem(scan: Path) -> str:
    suffix = "" if scan.is_dir() else image_suffix(scan)
    return scan.name[: len(scan.name) - len(suffix)]


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DisyreError(f"The scan {twice[0]} is given twice; name it once.")


# --- tables


def _from_table(table: Path, study: bool) -> tuple[Case, ...]:
    rows = _read_table(table)
    scans = [Path(os.path.abspath(table.parent / row["scan"])) for row in rows]
    if study:
        return _studies_from_table(table, rows, scans)
    named = [row["case"] for row in rows if row.get("case")]
    if named and len(named) < len(rows):
        raise DisyreError(f"{table.name} names some cases and not others; fill the column 'case' or leave it out.")
    names = [_plain(name, table) for name in named] or [case.name for case in _named(_below_common(scans), scans)]
    _check_names(names)
    masks = [table.parent / row["mask"] if row.get("mask") else None for row in rows]
    contrasts = [_contrast(row, table) for row in rows]
    return tuple(Case(n, (s,), m, c) for n, s, m, c in zip(names, scans, masks, contrasts, strict=True))


def _contrast(row: dict[str, str], table: Path) -> str | None:
    named = row.get("contrast", "").upper()
    if named and named not in CONTRASTS:
        raise DisyreError(
            f"{table.name}: '{row['contrast']}' is no contrast; use {', '.join(CONTRASTS)} or leave it out."
        )
    return named or None


def _studies_from_table(table: Path, rows: Sequence[dict[str, str]], scans: Sequence[Path]) -> tuple[Case, ...]:
    if any(row.get("mask") or row.get("contrast") for row in rows):
        raise DisyreError("A study finds masks and contrasts by itself; leave these columns out.")
    if not all(row.get("case") for row in rows):
        raise DisyreError(f"{table.name} needs the column 'case', which the scans of a patient have in common.")
    studies: dict[str, list[Path]] = {}
    for row, scan in zip(rows, scans, strict=True):
        studies.setdefault(_plain(row["case"], table), []).append(scan)
    return tuple(Case(name, tuple(own)) for name, own in studies.items())


def _read_table(table: Path) -> list[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DisyreError(f"{table.name} is no text in UTF-8; save the table as CSV UTF-8.") from error
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    rows = [{key: (value or "").strip() for key, value in row.items() if key in COLUMNS} for row in reader]
    rows = [row for row in rows if any(row.values())]
    if "scan" not in (reader.fieldnames or ()) or not rows or not all(row["scan"] for row in rows):
        raise DisyreError(f"{table.name} needs a column 'scan' with a path in every row; see 'disyre detect --help'.")
    return rows


def _plain(name: str, table: Path) -> str:
    """A case name that is a path below the output folder."""
    parts = name.replace("\\", "/").split("/")
    if not all(part and part == part.strip() and not part.startswith(".") and ":" not in part for part in parts):
        raise DisyreError(f"{table.name}: '{name}' is no name for a case; use names without dots in front.")
    return "/".join(parts)


# --- content


def _sha256(file: Path) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.digest()


def _files_of(path: Path) -> list[Path]:
    """The files that reading a scan or a mask looks at: all of a folder, a file with its data and its JSON side car."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    side_car = path.with_name(f"{_stem(path)}.json")
    return [path, *([side_car] if side_car.is_file() else []), *_data_of(path)]


def _data_of(header: Path) -> list[Path]:
    """The files beside a detached header that it names; all of them where it names none."""
    if image_suffix(header) not in _DETACHED:
        return []
    text = header.read_text(encoding="latin-1")
    beside = sorted(file for file in header.parent.iterdir() if file.is_file() and file != header)
    return [file for file in beside if file.name in text] or beside
