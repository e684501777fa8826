"""Where a task's slabs come from: label maps, scans, or both in the shares of the config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from DISYRECore.errors import DisyreError
from DISYRECore.io.average_head import FOLDED_HEAD
from DISYRECore.io.files import image_suffix, short_name
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.patients import (
    ScanFile,
    Split,
    all_scans,
    find_patients,
    image_root,
    is_excluded,
    split_by_patient,
)
from DISYRECore.training.prepared import Bar, Cache, PreparedScan, Report, refuse_shared
from DISYRECore.training.slices import FLIPS, ImageSlabs, find_places, sources
from DISYRECore.training.tasks.base.batches import Mixture, Slabs, SliceSettings, SyntheticSlabs

Part = Literal["train", "validation", "calibration"]

AVERAGE_VARIANTS = 5
"""Brains with other widths of sulci and ventricles that are made of the average head, at least."""


@dataclass(frozen=True)
class Sources:
    """Label maps and scans of a run.

    Attributes:
        config: Of the run.
        data: Its folders.
        device: That trains.
        context: Neighbouring slices on either side.

    Raises:
        DisyreError: Folders that do not fit the config.
    """

    config: TrainingConfig[Any]
    data: TrainingData
    device: torch.device
    context: int = 0

    def __post_init__(self) -> None:
        check_data(self.config, self.data)

    def training(self, healthy: bool = False, labelled: bool = False) -> Slabs:
        """Slabs to learn from.

        Args:
            healthy: Whether slices of scans that are known to be anomalous are left out.
            labelled: Whether scans must have healthy and anomalous slices.

        Raises:
            DisyreError: Nothing to learn from.
        """
        share = self.config.images
        images = self._images("train", healthy, labelled) if share > 0 else None
        if images is not None and share == 1:
            return images
        bank = load_bank(self.config, self.data, "train", self.device)
        anatomies = SyntheticSlabs(bank, self.config, self.context)
        return anatomies if images is None else Mixture(images, anatomies, share)

    def validation(self, healthy: bool = False, labelled: bool = False) -> Slabs:
        """Slabs of held-out patients; of held-out label maps where no scans are learnt from."""
        if self.config.images > 0:
            return self._images("validation", healthy, labelled)
        bank = load_bank(self.config, self.data, "validation", self.device)
        return SyntheticSlabs(bank, self.config, self.context)

    def _images(self, part: Part, healthy: bool, labelled: bool) -> ImageSlabs:
        settings: SliceSettings = self.config.settings
        flips = settings.flips if part == "train" else ()
        scans, shape = tuple(self._prepared[part]), settings.slice_shape
        places = find_places(scans, shape, healthy, labelled)
        return ImageSlabs(scans, shape, self.context, self.device, flips, places)

    @cached_property
    def _prepared(self) -> dict[str, list[PreparedScan]]:
        return prepare_scans(self.config, self.data)


def check_data(config: TrainingConfig[Any], data: TrainingData) -> None:
    """Refuses folders that do not fit what a config learns from.

    Raises:
        DisyreError: A folder that is missing or of no use, or shares that the modality or the labels do not allow.
    """
    share, labels = config.images, getattr(config.settings, "labels", "synthetic")
    if not 0 <= share <= 1:
        raise DisyreError(f"The share of images of {config.name} is {share}; give one from 0 to 1.")
    if share < 1 and not find_modality(config.modality).from_labels:
        raise DisyreError(f"{config.modality} cannot be learnt from label maps; set images to 1.")
    if 0 < share < 1 and labels != "synthetic":
        raise DisyreError(f"Labels from {labels} go with scans alone; set images to 1, or use synthetic labels.")
    for name in getattr(config.settings, "flips", ()):
        if name not in FLIPS:
            raise DisyreError(f"There is no flip '{name}'; choose from {', '.join(FLIPS)}.")
    if share > 0 and data.images is None:
        raise DisyreError(f"The config {config.name} learns from scans; give their folder with --data.")
    if share == 0 and data.images is not None:
        raise DisyreError(f"The config {config.name} learns from no scans; set images, or leave --data out.")
    if share == 0 and data.labelmaps is None:
        raise DisyreError(f"The config {config.name} learns from label maps; give their folder with --labelmaps.")
    if share == 1 and data.labelmaps is not None:
        raise DisyreError(f"The config {config.name} learns from no label maps; leave --labelmaps out.")


def split_scans(config: TrainingConfig[Any], folder: Path) -> Split:
    """Scans of a folder by what they are for: by the patterns of the config, or by patient where it names none.

    In a mixture the patterns of the config are those of label maps.

    Raises:
        DisyreError: No scan to learn from, or all of one patient.
    """
    if config.images < 1 or not config.train:
        modality = find_modality(config.modality)
        find = all_scans if modality.has_depth else modality.find
        return split_by_patient(find_patients(folder, config.exclude, find), config.seed)
    root = image_root(folder)
    parts = [_matching(root, patterns) for patterns in (config.train, config.validation)]
    kept = [
        tuple(ScanFile(one, one.name) for one in part if not is_excluded(one, folder, config.exclude)) for part in parts
    ]
    if not kept[0]:
        raise DisyreError(f"{short_name(folder)} holds no scans that the config names; check its patterns.")
    return Split(kept[0], kept[1])


def prepare_scans(
    config: TrainingConfig[Any], data: TrainingData, report: Report | None = None
) -> dict[str, list[PreparedScan]]:
    """Prepares all scans of a run into its cache; what is there already is taken from it.

    Args:
        config: Of the run.
        data: With a folder of scans and a cache.
        report: Told how far it is, and of each scan that cannot be used; the split and a bar on stderr where None.

    Returns:
        The scans of the contrasts of the config by what they are for.

    Raises:
        DisyreError: No scan, nowhere to keep them, or the same scan in training and held out.
    """
    if data.images is None or data.cache is None:
        raise DisyreError("Preparing scans needs their folder and one to keep what is prepared; give both.")
    split, labels = split_scans(config, data.images), getattr(config.settings, "labels", "synthetic")
    of_part = {name: [scan.path for scan in part] for name, part in vars(split).items()}
    wanted = [path for paths in of_part.values() for path in paths]
    if report is None:
        print(split.in_words(), file=sys.stderr)
    cache = Cache(data.cache, config.modality, config.spacing_mm)
    made, _ = cache.get_all(sources(data.images, wanted, labels), report or Bar())
    usable = {one.scan: one for one in _of_contrasts(made, config)}
    parts = {name: [usable[path] for path in paths if path in usable] for name, paths in of_part.items()}
    refuse_shared(parts["train"], [*parts["validation"], *parts["calibration"]])
    return parts


def _of_contrasts(scans: Sequence[PreparedScan], config: TrainingConfig[Any]) -> list[PreparedScan]:
    """Scans of the contrasts that the config names; the others are told."""
    kept = [scan for scan in scans if scan.contrast in config.contrasts]
    others = sorted({scan.contrast for scan in scans} - set(config.contrasts))
    if not kept:
        wanted, seen = ", ".join(config.contrasts_once), ", ".join(others)
        raise DisyreError(f"The config is for {wanted}, but the scans are {seen}; change its contrasts or the scans.")
    if others:
        print(f"disyre: {len(scans) - len(kept)} scans of {', '.join(others)} are left out.", file=sys.stderr)
    return kept


def load_bank(
    config: TrainingConfig[Any], data: TrainingData, part: Part, device: torch.device, **settings: Any
) -> AnatomyBank:
    """The anatomies of a run; the average head, deformed and aged, where there is no folder of label maps.

    Args:
        config: Of the run.
        data: Its folders.
        part: For training, further brains are made of each.
        device: That trains.
        settings: Of `load_anatomies`.

    Raises:
        DisyreError: Folders that do not fit the config, or files that are no label maps.
    """
    check_data(config, data)
    if data.labelmaps is None:
        return _anatomies((FOLDED_HEAD,), device, max(config.variants, AVERAGE_VARIANTS), **settings)
    variants = config.variants if part == "train" else 0
    return _anatomies(tuple(_label_maps(config, data.labelmaps, part)), device, variants, **settings)


@lru_cache(maxsize=2)
def _anatomies(paths: tuple[Path, ...], device: torch.device, variants: int, **settings: Any) -> AnatomyBank:
    """Kept, since each stage of a run asks for them."""
    return load_anatomies(list(paths), variants=variants, **settings).to(device)


def _label_maps(config: TrainingConfig[Any], folder: Path, part: Part) -> list[Path]:
    """Those that the patterns name; without patterns all beside scans, and otherwise a share of them."""
    if config.train:
        return _matching(folder, config.train if part == "train" else config.validation)
    maps = [file for file in sorted(folder.rglob("*")) if image_suffix(file)]
    if config.images > 0 or not maps:
        return maps
    split = split_by_patient([ScanFile(file, file.name) for file in maps], config.seed)
    return [scan.path for scan in (split.train + split.calibration if part == "train" else split.validation)]


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})
