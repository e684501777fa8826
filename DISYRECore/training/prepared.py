"""Scans that are prepared once and kept on disk, so that training reads slices and never a whole scan.

A scan is one folder, named after what it was made from: the content of its files, and the settings and version of the
preparation. Nothing in it tells whose scan it is.

    image.npy     (Z, Y, X) float16 in [0, 1], as `prepare` makes it in detection
    mask.npy      (Z, Y, X) bool
    region.npy    (Z, Y, X) bool, what is known to be anomalous
    picture.png   three planes through the middle of the brain
    scan.json     see `PreparedScan`
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable, short_name
from DISYRECore.io.volume import Volume, resample
from DISYRECore.preprocessing.contrast_words import contrast_from_words, read_header
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.preprocessing.modalities.base import Modality
from DISYRECore.preprocessing.prepare import PreparedBrain

VERSION = 1
"""Of the preparation; a greater one makes everything anew."""

BYTES = {"image": 2, "mask": 1, "region": 1}
RESERVE = 200 * 2**20
"""Bytes that are left free on the disk."""

TYPICAL_MM3 = 160 * 200 * 160
"""Volume of a prepared brain with its margin, about."""

Report = Callable[[int, int, str], None]
"""Told how many of how many scans are done, and what is wrong with the last, if anything."""


def silent(done: int, total: int, problem: str) -> None:
    """Progress that nobody watches."""


class Bar:
    """Progress on stderr, with a sentence for each scan that cannot be used."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, done: int, total: int, problem: str) -> None:
        """See `Report`."""
        self.bar = self.bar or tqdm(total=total, file=sys.stderr, desc="prepare", mininterval=1)
        self.bar.update()
        if problem:
            self.bar.write(f"disyre: {problem}", file=sys.stderr)
        if done == total:
            self.bar.close()


@dataclass(frozen=True)
class ScanSource:
    """The files that a prepared scan is made from.

    Attributes:
        scan: Image file or DICOM folder.
        mask: Where to look; found where None.
        lesions: Mask of lesions, if there is one.
        anomalous: Whether each slice along the third axis of the file is; None where no table says so.
    """

    scan: Path
    mask: Path | None = None
    lesions: Path | None = None
    anomalous: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class PreparedScan:
    """A prepared scan on disk.

    Attributes:
        folder: Of its files.
        scan: What it was made from.
        contrast: What a network takes it for.
        inside: Voxels of the mask in each slice.
        anomalous: Whether there is a region in each slice.
        content: Hash of the prepared voxels: the same for the same scan under another name or format.
        record: What was done and found, see `PreparedBrain.record`.
    """

    folder: Path
    scan: Path
    contrast: str
    inside: tuple[int, ...]
    anomalous: tuple[bool, ...]
    content: str
    record: dict[str, Any] = field(default_factory=dict)

    def open(self, name: str) -> np.ndarray:
        """``image``, ``mask`` or ``region``, (Z, Y, X), of which only what is looked at is read."""
        voxels: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return voxels

    @property
    def picture(self) -> Path:
        """Three planes through the middle of the brain."""
        return self.folder / "picture.png"


@dataclass(frozen=True)
class Cache:
    """Where prepared scans of one kind are kept.

    Attributes:
        folder: May be shared by runs of different settings.
        modality: See `preprocessing.modalities`.
        spacing_mm: Of the model grid.
    """

    folder: Path
    modality: str
    spacing_mm: float

    def get(self, source: ScanSource) -> PreparedScan:
        """A prepared scan; prepares it where that has not been done.

        Raises:
            DisyreError: A file that cannot be read, prepared or written.
        """
        folder = self.folder / self._key(source)
        made = _load(folder, source.scan)
        if made is not None:
            return made
        self._make(source, folder)
        made = _load(folder, source.scan)
        if made is None:
            raise DisyreError(
                f"What was prepared of {short_name(source.scan)} is not readable; check the disk.", "output"
            )
        return made

    def get_all(
        self, sources: Sequence[ScanSource], report: Report = silent, needed: int = 1
    ) -> tuple[list[PreparedScan], dict[Path, str]]:
        """All scans that can be prepared, and a sentence for each that cannot.

        Args:
            sources: Of the scans.
            report: Told how far it is, and of each scan that cannot be used.
            needed: Scans that there must be at least.

        Raises:
            DisyreError: Nothing can be written, there is too little room on the disk, or too few scans are left.
        """
        check_writable(self.folder)
        self._check_room(len(sources))
        made, problems = list[PreparedScan](), dict[Path, str]()
        for number, source in enumerate(sources, start=1):
            try:
                made.append(self.get(source))
            except DisyreError as error:
                problems[source.scan] = str(error)
            report(number, len(sources), problems.get(source.scan, ""))
        if len(made) < needed:
            text = f"{len(made)} of {len(sources)} scans can be used; the first that cannot"
            raise DisyreError(f"{text}: {next(iter(problems.values()))}")
        return made, problems

    def _check_room(self, count: int) -> None:
        have = sum(1 for _ in self.folder.glob("*/scan.json"))
        needed = max(count - have, 0) * TYPICAL_MM3 / self.spacing_mm**3 * sum(BYTES.values())
        free = shutil.disk_usage(self.folder).free
        if needed and free < needed + RESERVE:
            wanted, left = (round(size / 1e6) for size in (needed + RESERVE, free))
            text = f"Preparing {count} scans needs {wanted} MB, but {left} MB are free in {self.folder}"
            raise DisyreError(f"{text}; make room or choose another folder.", "output")

    def _key(self, source: ScanSource) -> str:
        table = None if source.anomalous is None else [int(value) for value in source.anomalous]
        parts = [VERSION, self.modality, self.spacing_mm, table]
        files = (source.scan, source.mask, source.lesions)
        hashes = ["" if file is None else content_hash(file) for file in files]
        return hashlib.sha256(json.dumps([*parts, *hashes, _words(source.scan)]).encode()).hexdigest()[:32]

    def _make(self, source: ScanSource, folder: Path) -> None:
        """Writes a prepared scan, whole or not at all."""
        modality = find_modality(self.modality)
        scan = modality.read(source.scan)
        mask = modality.read_mask(source.mask, scan.grid) if source.mask else None
        brain = modality.prepare(scan, self.spacing_mm, mask, None)
        region = _on_model_grid(brain, _truth(source, scan, modality))
        try:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".part-") as part:
                _write(Path(part) / "scan", brain, region)
                _replace(Path(part) / "scan", folder)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            text = f"What was prepared of {short_name(source.scan)} cannot be written ({reason})"
            raise DisyreError(f"{text}; make room or choose another folder.", "output") from error


def refuse_shared(train: Iterable[PreparedScan], held_out: Iterable[PreparedScan]) -> None:
    """Refuses a scan that is both learnt from and held out, under whatever name and format.

    Raises:
        DisyreError: There is one.
    """
    known = {scan.content: scan.scan for scan in train}
    for scan in held_out:
        if scan.content in known:
            names = f"{short_name(known[scan.content])} and {short_name(scan.scan)}"
            raise DisyreError(f"{names} are the same scan, in training and held out; leave one of them out.")


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder whatever they are called.

    Raises:
        DisyreError: A file cannot be read.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    try:
        hashes = sorted(_file_hash(file) for file in files)
    except OSError as error:
        raise DisyreError(f"{short_name(path)} cannot be read; check its permissions.") from error
    return hashes[0] if path.is_file() else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _file_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _words(scan: Path) -> list[str]:
    """What tells the contrast beside the voxels: words of the file name, which is why it belongs to the key."""
    named, why = contrast_from_words(str(scan), read_header(str(scan)))
    return [named or "", why]


def _truth(source: ScanSource, scan: Volume, modality: Modality) -> np.ndarray:
    """(X, Y, Z) float32 on the scan's grid: lesions, or slices that are anomalous as a whole."""
    if source.anomalous is not None:
        return np.broadcast_to(np.array(source.anomalous, np.float32), scan.shape)
    if source.lesions is None:
        return np.zeros(scan.shape, np.float32)
    lesion: np.ndarray = modality.read_mask(source.lesions, scan.grid)
    return lesion.astype(np.float32)


def _on_model_grid(brain: PreparedBrain, truth: np.ndarray) -> np.ndarray:
    """(Z, Y, X) bool, within the mask."""
    if not truth.any():
        return np.zeros(brain.mask.T.shape, bool)
    moved = resample(Volume(np.ascontiguousarray(truth), brain.native.affine), brain.image.grid).voxels
    inside: np.ndarray = (moved.T > 0.5) & brain.mask.T
    return inside


def _write(folder: Path, brain: PreparedBrain, region: np.ndarray) -> None:
    folder.mkdir()
    image, mask = np.ascontiguousarray(brain.image.voxels.T, np.float16), np.ascontiguousarray(brain.mask.T)
    for name, voxels in (("image", image), ("mask", mask), ("region", np.ascontiguousarray(region))):
        np.save(folder / f"{name}.npy", voxels, allow_pickle=False)
    picture(image, mask).save(folder / "picture.png")
    values = {
        "contrast": brain.contrast,
        "inside": mask.sum((1, 2)).tolist(),
        "anomalous": region.any((1, 2)).tolist(),
        "content": hashlib.sha256(image.tobytes()).hexdigest(),
        "record": brain.record(),
    }
    (folder / "scan.json").write_text(json.dumps(values), encoding="utf-8")


def _replace(part: Path, folder: Path) -> None:
    """Moves a finished folder to its place; another process may have been there first, with the same content."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        os.rename(part, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _load(folder: Path, scan: Path) -> PreparedScan | None:
    """A prepared scan; None where there is none or its files are not whole."""
    try:
        values = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
        made = PreparedScan(
            folder,
            scan,
            values["contrast"],
            tuple(values["inside"]),
            tuple(values["anomalous"]),
            values["content"],
            values["record"],
        )
        shapes = {made.open(name).shape for name in BYTES}
    except (OSError, ValueError, KeyError):
        return None
    return made if len(shapes) == 1 else None


def picture(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Axial, coronal and sagittal plane through the middle of a mask side by side, right on the left, top up.

    Args:
        image: (Z, Y, X) in [0, 1].
        mask: (Z, Y, X) bool.
    """
    z, y, x = (round(float(np.average(np.arange(n), weights=sums))) for n, sums in _profiles(mask))
    planes = [np.flip(plane, (0, 1)) for plane in (image[z], image[:, y], image[:, :, x])]
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(plane, (((height - len(plane)) // 2, (height - len(plane) + 1) // 2), (0, 4))) for plane in planes]
    return Image.fromarray((np.clip(np.hstack(padded), 0, 1) * 255).astype(np.uint8))


def _profiles(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    others = ((1, 2), (0, 2), (0, 1))
    return [(mask.shape[axis], mask.sum(rest) + 1e-9) for axis, rest in enumerate(others)]
