"""What a front end for training has computed, as a process of its own, spoken to like `apps.worker`.

The training itself is none of its requests: it is `disyre train`, which needs no front end; see `training.follow`.

Requests, besides ``cancel``:
    ``{"command": "check", "folder", "cache", "output"}``: examines a folder of scans.
    ``{"command": "prepare", PLAN, "output"}``: prepares all scans, and shows some.
    ``{"command": "gallery", PLAN, "seed", "output"}``: a picture of synthetic anomalies.
    ``{"command": "cost", PLAN, "device"}``: what the training would cost here.
    ``{"command": "rehearse", PLAN, "device", "seconds", "output"}``: trains for a while.
    ``{"command": "config", "choices", "output"}``: writes the config.
    ``{"command": "add", "model", "card", "yes"}``: adds a model to the list.
    ``{"command": "export", "model", "file"}``, ``{"command": "import", "file", "yes"}``: carry a model elsewhere.

``PLAN`` stands for ``choices``, the fields of `training.choices.Choices`, and the folders ``images``, ``cache`` and
``labelmaps``, the last of which may be missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run by path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from DISYRECore.apps.worker import Course, Event, Worker, main

if TYPE_CHECKING:
    import numpy as np

    from DISYRECore.training.config import TrainingConfig
    from DISYRECore.training.data import TrainingData
    from DISYRECore.training.gallery import Gallery
    from DISYRECore.training.prepared import PreparedScan

CASES = 3
"""Scans that are shown before and after preparation."""


class TrainingWorker(Worker):
    """Serves requests about a training, see the module; ``plan`` are the fields that ``PLAN`` stands for."""

    gallery_shown: tuple[str, Gallery] | None = None

    @property
    def commands(self) -> dict[str, Callable[..., Event]]:
        """What can be asked for."""
        return {
            "check": self.check_scans,
            "prepare": self.prepare,
            "gallery": self.gallery,
            "cost": self.cost,
            "rehearse": self.rehearse,
            "config": self.config,
            "add": self.add,
            "export": self.export,
            "import": self.import_model,
        }

    def check_scans(self, course: Course, folder: str, output: str, cache: str, anomalies: bool = False) -> Event:
        """Examines a folder of scans as `disyre dataset check` does.

        Args:
            course: Told of the progress.
            folder: With the scans.
            output: JSON file, see `DatasetCheck.to_dict`, with the ``folder`` besides.
            cache: Folder for prepared scans.
            anomalies: Whether to find scans that look anomalous to the bundled model.

        Returns:
            How many scans and patients there are, problems and advice.
        """
        course("load", 0.0)
        from DISYRECore.detection.detector import Detector
        from DISYRECore.io.files import write_text
        from DISYRECore.models.description import DEFAULT_MODEL, find_model, read_description
        from DISYRECore.training.dataset_check import check_dataset
        from DISYRECore.training.prepared import Cache

        model = read_description(find_model(DEFAULT_MODEL))
        detector = Detector(DEFAULT_MODEL) if anomalies else None

        def report(done: int, total: int, problem: str) -> None:
            course("look" if done == total else "prepare", done / total)

        store = Cache(Path(cache), model.modality, model.spacing_mm)
        found = check_dataset(Path(folder), store, detector, report=report).to_dict()
        write_text(json.dumps({"folder": folder, **found}, indent=2), Path(output))
        return {name: value for name, value in found.items() if name != "files"}

    def prepare(self, course: Course, output: str, **plan: Any) -> Event:
        """Prepares all scans of a training into its cache.

        Args:
            course: Told of the progress.
            output: Folder for pictures.
            plan: See the class.

        Returns:
            How many scans there are for each purpose, what is wrong with others, the size of the cache in MB, and
            `CASES` with pictures ``before`` and ``after``.
        """
        course("load", 0.0)
        from DISYRECore.training.tasks.base.sources import prepare_scans

        config, data = _planned(**plan)
        problems: list[str] = []

        def report(done: int, total: int, problem: str) -> None:
            course("prepare", done / total)
            self.emit({"event": "count", "done": done, "total": total})
            problems.extend([problem] if problem else [])

        parts = prepare_scans(config, data, report)
        course("write", 0.0)
        scans = [scan for part in parts.values() for scan in part]
        cases = [_show(scan, config.modality, Path(output) / f"case{i}") for i, scan in enumerate(_some(scans))]
        megabytes = sum(file.stat().st_size for scan in scans for file in scan.folder.iterdir()) / 1e6
        counts = {name: len(part) for name, part in parts.items()}
        return {"scans": counts, "problems": problems, "cache_mb": round(megabytes), "cases": cases}

    def gallery(self, course: Course, output: str, seed: int, **plan: Any) -> Event:
        """Draws anomalies as the training does; the same seed gives the same slices.

        Args:
            course: Told of the progress.
            output: File for the picture.
            seed: Of the draw.
            plan: See the class.

        Returns:
            The path of the picture.
        """
        course("load", 0.0)
        from DISYRECore.corruption.families.base import CorruptionSettings
        from DISYRECore.training.gallery import Gallery

        config, data = _planned(**plan)
        corruption = config.settings.corruption
        usual = str((replace(config, settings=None), replace(config.settings, corruption=CorruptionSettings()), data))
        if self.gallery_shown is None or self.gallery_shown[0] != usual:
            self.gallery_shown = usual, Gallery(config, data)
        course("gallery", 0.0)
        return {"picture": _save(self.gallery_shown[1].picture(corruption, seed), Path(output))}

    def cost(self, course: Course, device: str, **plan: Any) -> Event:
        """See `training.rehearsal.measure_cost`."""
        course("load", 0.0)
        from DISYRECore.training.rehearsal import measure_cost

        return asdict(measure_cost(*_planned(**plan), device, lambda share: course("probe", share)))

    def rehearse(self, course: Course, device: str, seconds: float, output: str, **plan: Any) -> Event:
        """See `training.rehearsal.rehearse`; the picture goes to the file `output`."""
        course("load", 0.0)
        from DISYRECore.training.rehearsal import rehearse

        config, data = _planned(**plan)
        done = rehearse(config, data, device, seconds, lambda share: course("train", share))
        picture = None if done.example is None else _save(255 * done.example.clip(0, 1), Path(output))
        return {"steps": done.steps, "before": done.before, "after": done.after, "picture": picture}

    def config(self, course: Course, choices: Event, output: str) -> Event:
        """Writes the config that was chosen, after a look whether it can be read."""
        course("write", 0.0)
        from DISYRECore.io.files import check_writable
        from DISYRECore.training.choices import Choices, write_config
        from DISYRECore.training.config import read_config
        from DISYRECore.training.typed import build

        path = Path(output)
        check_writable(path.parent)
        write_config(build(Choices, choices, "The choices"), path)
        return {"config": output, "steps": read_config(path).steps}

    def add(self, course: Course, model: str, card: dict[str, str] | None = None, yes: bool = False) -> Event:
        """Adds a model to the list of models.

        Args:
            course: Told of the progress.
            model: Its folder.
            card: What its description is to say: ``title``, ``data``, ``licence``.
            yes: Whether to add it though there is something to ask about.

        Returns:
            The id of the model, or the ``question``, and nothing was done.
        """
        course("write", 0.0)
        from DISYRECore.models.package import check_model, install, is_installed

        folder = Path(model)
        if card:
            _write_card(folder, card)
        description = check_model(folder)
        doubts = []
        if description.is_worse_than_start:
            doubts.append("This model finds fewer synthetic anomalies than the one that it started from.")
        if is_installed(description.id):
            doubts.append(f"The model {description.id} that is in the list would be replaced.")
        if doubts and not yes:
            return {"question": " ".join([*doubts, "Add it?"])}
        install(folder, replace=True)
        return {"model": description.id}

    def export(self, course: Course, model: str, file: str) -> Event:
        """Writes a model, given by its folder, into one file."""
        course("write", 0.0)
        from DISYRECore.models.package import pack

        pack(model, Path(file))
        return {"file": file}

    def import_model(self, course: Course, file: str, yes: bool = False) -> Event:
        """Adds the model in such a file, see `add`."""
        from DISYRECore.models.package import unpacked

        with unpacked(Path(file)) as folder:
            return self.add(course, str(folder), yes=yes)


def _write_card(folder: Path, card: dict[str, str]) -> None:
    """Has the description of a model and its card say what its user wants."""
    from DISYRECore.io.files import write_text
    from DISYRECore.models.description import DESCRIPTION, read_description
    from DISYRECore.models.package import CARD

    known = read_description(folder)
    training = {**known.training, "data": card["data"], "licence": card["licence"]}
    write_text(replace(known, title=card["title"], training=training).to_json(), folder / DESCRIPTION)
    if (folder / CARD).is_file():
        rows = {"| training data |": card["data"], "| licence |": card["licence"]}
        text = (folder / CARD).read_text(encoding="utf-8").replace(f"\n{known.title}. ", f"\n{card['title']}. ", 1)
        write_text("".join(_with_value(line, rows) for line in text.splitlines(keepends=True)), folder / CARD)


def _with_value(line: str, rows: dict[str, str]) -> str:
    """A line of a card, with the value that its row is to have."""
    return next((f"{name} {value or 'not stated'} |\n" for name, value in rows.items() if line.startswith(name)), line)


def _planned(choices: Event, images: str, cache: str, labelmaps: str = "") -> tuple[TrainingConfig[Any], TrainingData]:
    """Config and folders of a plan."""
    from DISYRECore.training.choices import Choices, write_config
    from DISYRECore.training.config import read_config
    from DISYRECore.training.data import TrainingData
    from DISYRECore.training.typed import build

    with tempfile.TemporaryDirectory(prefix="disyre-") as folder:
        path = Path(folder) / "config.yaml"
        write_config(build(Choices, choices, "The choices"), path)
        config = read_config(path)
    return config, TrainingData(Path(images), Path(labelmaps) if labelmaps else None, Path(cache))


def _some(scans: list[PreparedScan]) -> list[PreparedScan]:
    """`CASES` of the scans, evenly spread."""
    return scans[:: max(len(scans) // CASES, 1)][:CASES]


def _show(scan: PreparedScan, modality: str, stem: Path) -> Event:
    """Pictures of a scan before and after preparation, in files that begin with a stem."""
    import numpy as np

    from DISYRECore.io.files import short_name
    from DISYRECore.io.volume import to_canonical
    from DISYRECore.preprocessing.modalities import find_modality
    from DISYRECore.training.prepared import picture

    voxels = np.asarray(to_canonical(find_modality(modality).read(scan.scan)).voxels.T, np.float32)
    low, high = np.percentile(voxels, (1, 99.5))
    raw = (voxels - low) / max(high - low, 1e-6)
    before = _save(np.asarray(picture(raw, raw > 0.1)), stem.with_name(f"{stem.name}_before.png"))
    after = _save(np.asarray(picture(scan.open("image"), scan.open("mask"))), stem.with_name(f"{stem.name}_after.png"))
    return {"name": short_name(scan.scan), "contrast": scan.contrast, "before": before, "after": after}


def _save(pixels: np.ndarray, path: Path) -> str:
    """Writes a picture, (Y, X) or (Y, X, 3) in [0, 255]; returns its path."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels).round().astype(np.uint8)).save(path)
    return str(path)


if __name__ == "__main__":
    main(TrainingWorker)
