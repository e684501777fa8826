"""Detection as a process of its own, spoken to in lines of JSON.

Run by path, ``python -u DISYRECore/apps/worker.py``: it does not matter where the caller's modules are. Requests come
in on stdin, one JSON object a line; events go out on stdout, one a line; everything else goes to stderr.

Requests:
    ``{"command": "detect", "input", "output", ...}``: detects in one scan; see `Worker.detect`.
    ``{"command": "report", "input", "output", ...}``: writes the report anew; see `Worker.report`.
    ``{"command": "demo", "output"}``: writes a demo scan with its truth.
    ``{"command": "check"}``: tells versions and device.
    ``{"command": "cancel"}``, or the end of stdin: stops within `GRACE_S` at whatever stage.

Events:
    ``{"event": "stage", "name"}``, ``{"event": "progress", "value", "left_s"}`` with value 0..1,
    ``{"event": "device", "name", "title", "free_gb", "total_gb"}``, ``{"event": "warning", "message"}``,
    ``{"event": "result", ...}``, ``{"event": "error", "kind", "message", "trace"}``, ``{"event": "cancelled"}``.
    Kinds of errors are those of `DisyreError` and ``missing`` (a package is), ``oom``, ``internal``.

The process serves any number of requests and keeps the model loaded in between. It exits with 0 when stdin ends,
with 3 when a request was cancelled.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if __name__ == "__main__":  # run by path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    import numpy as np

    from DISYRECore.detection.detector import Detection, Detector
    from DISYRECore.detection.findings import Finding
    from DISYRECore.io.volume import Volume
    from DISYRECore.models.description import ModelDescription

CANCELLED = 3
GRACE_S = 2.0
LEVELS = 100
"""Level n > 0 stands for scores in ((n - 1) / LEVELS, n / LEVELS]; 0 is outside the brain."""

SHARES = {"load": 0.2, "read": 0.02, "prepare": 0.2, "restore": 0.45, "map back": 0.06, "findings": 0.02, "write": 0.05}
"""About how much of the time each stage of a detection takes."""

LEAST_KNOWN = 0.1
OFTEN_S = 0.1
AUTOMATIC, STRIPPED = "auto", "stripped"
DEMO_SEED = 3

Event = dict[str, Any]


class Cancelled(Exception):  # noqa: N818 -- nothing went wrong
    """Raised out of a running request that is to stop."""


class Inbox(threading.Thread):
    """Reads requests while others are worked on, so that a running one can be stopped.

    Args:
        stream: Where requests come from.

    Attributes:
        requests: What is to be done; None when there is no more.
        busy: Set while there is a request that is not done.
        stop: Set when the running request is to stop.
        litter: Folder whose hidden rests are removed when the process is ended by force.
    """

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.requests: queue.Queue[Event | None] = queue.Queue()
        self.stop = threading.Event()
        self.busy = threading.Event()
        self.litter: Path | None = None

    def run(self) -> None:
        """Sorts lines into requests and cancellations until the stream ends."""
        for line in self.stream:
            request = _parse(line)
            if request.get("command") == "cancel":
                self._cancel()
            else:
                self.busy.set()
                self.requests.put(request)
        self.requests.put(None)
        self._cancel()

    def _cancel(self) -> None:
        if self.busy.is_set():
            self.stop.set()
            end = threading.Timer(GRACE_S, self._end)
            end.daemon = True
            end.start()

    def _end(self) -> None:
        if self.litter is not None:
            for rest in self.litter.glob(".disyre-*"):
                shutil.rmtree(rest, ignore_errors=True)
        os._exit(CANCELLED)


def _parse(line: str) -> Event:
    try:
        request = json.loads(line)
    except ValueError:
        request = {"command": line.strip()}
    return request if isinstance(request, dict) else {}


class Course:
    """Tells how far one request is and how long it will take; raises `Cancelled` once it is to stop.

    Args:
        emit: Where events go.
        stop: Set when the request is to stop.
    """

    def __init__(self, emit: Callable[[Event], None], stop: threading.Event) -> None:
        self.emit, self.stop = emit, stop
        self.start = time.monotonic()
        self.stage, self.last = "", 0.0

    def __call__(self, stage: str, share: float) -> None:
        """See `restore.Progress`."""
        if self.stop.is_set():
            raise Cancelled
        if stage != self.stage:
            self.stage, self.last = stage, 0.0
            self.emit({"event": "stage", "name": stage})
        now = time.monotonic()
        if now - self.last < OFTEN_S:
            return
        self.last = now
        value = self._value(share)
        left = (now - self.start) * (1 - value) / value if value >= LEAST_KNOWN else None
        self.emit({"event": "progress", "value": round(value, 3), "left_s": left and round(left, 1)})

    def _value(self, share: float) -> float:
        """Of the whole detection; a stage that belongs to none is a whole of its own."""
        if self.stage not in SHARES:
            return share
        stages = list(SHARES)
        before = stages[: stages.index(self.stage)]
        return min(sum(SHARES[stage] for stage in before) + share * SHARES[self.stage], 1.0)


class Worker:
    """Serves requests until there are no more.

    Args:
        stream: Where requests come from.
        emit: Where events go.
    """

    def __init__(self, stream: IO[str], emit: Callable[[Event], None]) -> None:
        self.inbox, self.emit = Inbox(stream), emit
        self.detectors: dict[tuple[Any, ...], Detector] = {}

    def run(self) -> int:
        """Works until stdin ends; returns the exit code."""
        self.inbox.start()
        self.emit({"event": "ready"})
        while (request := self.inbox.requests.get()) is not None:
            if not self._serve(request):
                return CANCELLED
            self.inbox.busy.clear()
        return 0

    @property
    def commands(self) -> dict[str, Callable[..., Event]]:
        """What can be asked for."""
        return {"detect": self.detect, "report": self.report, "demo": self.demo, "check": self.check}

    def _serve(self, request: Event) -> bool:
        """Handles one request; false when it was cancelled."""
        commands = self.commands
        course = Course(self.emit, self.inbox.stop)
        try:
            command = commands.get(str(request.pop("command", "")))
            if command is None:
                raise DisyreError(f"There is no such command; use one of {', '.join(commands)}.", "internal")
            self.inbox.litter = Path(request["output"]) if "output" in request else None
            self.emit({"event": "result", **command(course, **request)})
        except Cancelled:
            self.emit({"event": "cancelled"})
            return False
        except Exception as error:
            self.emit(_describe(error))
        return True

    def detect(
        self,
        course: Course,
        input: str,  # noqa: A002 -- the word of the protocol
        output: str,
        *,
        further: list[str] | None = None,
        model: str = AUTOMATIC,
        method: str | None = None,
        contrast: str | None = None,
        mask: str = AUTOMATIC,
        device: str = "auto",
        batch: int = 16,
        border: float | None = None,
        false_findings: float = 0.5,
        smallest_ml: float | None = None,
        files: bool = True,
        arrays: bool = False,
        title: str | None = None,
    ) -> Event:
        """Detects in one scan as `disyre detect` does.

        Args:
            course: Told of the progress.
            input: As for `read_volume`.
            output: Folder for everything that is written.
            further: More scans of the patient, taken together with the input on its grid, see `detect_study`.
            model: Id or folder of a model, or ``auto``.
            method, device, batch: As for `Detector`.
            contrast, border, false_findings, smallest_ml: As for `Detector.detect`.
            mask: File with a brain mask; ``auto`` finds it; ``stripped`` insists on a scan without skull.
            files: Whether to write what `disyre detect` writes.
            arrays: Whether to write arrays (Z, Y, X) as viewers take them, see `write_arrays`.
            title: Heading of the report; the name of the input when None.

        Returns:
            Paths of what was written, the findings, the record, and which model was taken and why.
        """
        course("load", 0.0)
        from DISYRECore.detection.study import detect_study
        from DISYRECore.io.files import check_writable
        from DISYRECore.io.read import read_volume

        folder = Path(output)
        check_writable(folder)
        scan = read_volume(input)
        if mask == STRIPPED:
            _insist_on_stripped(scan)
        chosen, why = (model, "") if model != AUTOMATIC else _choose_model(scan, contrast, method)
        detector = self._detector(chosen, method, device, batch)
        self.emit(describe_device(detector.device))
        usual: dict[str, Any] = {"border": border, "false_findings": false_findings, "smallest_ml": smallest_ml}
        usual["progress"] = course
        if further:
            detection = detect_study(detector, [input, *further], **usual)
        else:
            given = None if mask in (AUTOMATIC, STRIPPED) else mask
            detection = detector.detect(scan, mask=given, contrast=contrast, **usual)
        for sentence in [*detection.record["scan"]["flags"], *detection.record["warnings"]]:
            self.emit({"event": "warning", "message": sentence})
        written = self._write(course, detection, folder, title or Path(input).name, files, arrays)
        return {**written, **_outcome(detection, detector, why)}

    def _write(
        self, course: Course, detection: Detection, folder: Path, title: str, files: bool, arrays: bool
    ) -> Event:
        course("write", 0.0)
        written: Event = {}
        if files:
            from DISYRECore.apps.output import write_detection

            written["report"] = str(write_detection(detection, folder, title))
        if arrays:
            course("write", 0.5)
            written["arrays"] = write_arrays(detection, folder)
        course("write", 1.0)
        return written

    def _detector(self, model: str, method: str | None, device: str, batch: int) -> Detector:
        from DISYRECore.detection.detector import Detector

        key = (model, method, device, batch)
        if key not in self.detectors:
            self.detectors.clear()
            self.detectors[key] = Detector(model, method, device, batch)
        return self.detectors[key]

    def report(
        self,
        course: Course,
        input: str,  # noqa: A002 -- the word of the protocol
        output: str,
        *,
        title: str,
        score: str,
        brain: str,
        border: float,
        smallest_ml: float,
        false_findings: float = 0.5,
        healthy: Event | None = None,
        restored: str | None = None,
        keep: list[int] | None = None,
        settings: Event | None = None,
        quality: list[str] | None = None,
    ) -> Event:
        """Writes the report of an earlier detection with another border.

        Args:
            course: Told of the progress.
            input: The scan.
            output: Folder that `report.html` goes to.
            title: Heading of the report.
            score, brain, restored: (Z, Y, X) array files: the score in [0, 1], not 0 in the brain, scan units.
            border, smallest_ml, false_findings, healthy: What counts as a finding, see `label_findings`.
            keep: Labels of the findings to show; all when None.
            settings, quality: As for `write_report`.

        Returns:
            The path of the report.
        """
        course("read", 0.0)
        from DISYRECore.detection.evidence import HealthyFindings
        from DISYRECore.detection.findings import label_findings
        from DISYRECore.io.read import read_volume
        from DISYRECore.io.volume import Volume
        from DISYRECore.reports.scan import write_report

        scan = read_volume(input)
        map_, mask = Volume(_load(score), scan.affine), _load(brain) > 0
        course("findings", 0.0)
        known = HealthyFindings(**healthy) if healthy else None
        labels, findings = _kept(*label_findings(map_, border, mask, smallest_ml, known, false_findings), keep)
        course("write", 0.0)
        path = Path(output) / "report.html"
        write_report(
            path,
            title=title,
            image=scan,
            score=map_,
            restored=Volume(_load(restored), scan.affine) if restored else None,
            brain_mask=mask,
            labels=labels,
            findings=findings,
            border=border,
            score_scale=1.0,
            settings=settings or {},
            quality=quality or [],
        )
        return {"report": str(path)}

    def demo(self, course: Course, output: str) -> Event:
        """Writes `scan.nii.gz`, a FLAIR-like brain with one lesion, and `truth.nii.gz`."""
        course("load", 0.0)
        from DISYRECore.io.files import check_writable, resources
        from DISYRECore.io.write import write_volume
        from DISYRECore.synthesis.anatomy import load_anatomies
        from DISYRECore.synthesis.test_set import synthesise_case

        folder = Path(output)
        check_writable(folder)
        bank = load_anatomies([resources() / "Anatomy" / "folded_head.nii.gz"])
        course("synthesise", 0.0)
        case = synthesise_case(bank, 0, DEMO_SEED, contrast="FLAIR", kind="mass")
        course("write", 0.0)
        paths = {"scan": str(folder / "scan.nii.gz"), "truth": str(folder / "truth.nii.gz")}
        write_volume(case.scan, paths["scan"])
        write_volume(case.truth, paths["truth"])
        return paths

    def check(self, course: Course) -> Event:
        """Versions of what the core needs, and the device it would take."""
        course("load", 0.0)
        from importlib.metadata import PackageNotFoundError, version

        from DISYRECore.models.device import pick_device
        from DISYRECore.version import __version__

        versions = {"disyre": __version__, "python": sys.version.split()[0]}
        for package in ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "safetensors"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "missing"
        self.emit(describe_device(pick_device()))
        return {"versions": versions}


def to_levels(score: np.ndarray, brain_mask: np.ndarray) -> np.ndarray:
    """Quantises a score in [0, 1] into `LEVELS`, uint8; a level above t * LEVELS means a score above t."""
    import numpy as np

    levels = np.ceil(score * np.float32(LEVELS)).clip(1, LEVELS).astype(np.uint8)
    return levels * (brain_mask > 0)


def write_arrays(detection: Detection, folder: Path) -> dict[str, str]:
    """Writes score and restored image (float32) and levels (uint8) as `.npy` files; returns their paths by name.

    The arrays are (Z, Y, X) on the grid of the scan.

    Raises:
        DisyreError: Of kind ``output``: they cannot be written.
    """
    import numpy as np

    made = {
        "score": detection.score.voxels.astype(np.float32),
        "restored": detection.restored.voxels.astype(np.float32),
        "levels": to_levels(detection.score.voxels, detection.brain_mask.voxels),
    }
    paths = {name: str(folder / f"{name}.npy") for name in made}
    try:
        for name, voxels in made.items():
            np.save(paths[name], np.ascontiguousarray(voxels.T), allow_pickle=False)
    except OSError as error:
        raise DisyreError(f"Writing to {folder} failed ({error.strerror}); is the disk full?", "output") from error
    return paths


def _kept(labels: np.ndarray, findings: list[Finding], keep: list[int] | None) -> tuple[np.ndarray, list[Finding]]:
    """The findings with these labels, in image and list; all when None."""
    import numpy as np

    if keep is None:
        return labels, findings
    kept = [finding for finding in findings if finding.label in keep]
    return np.where(np.isin(labels, keep), labels, 0).astype(labels.dtype), kept


def _load(path: str) -> np.ndarray:
    """A (Z, Y, X) array file as (X, Y, Z)."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False).T
    except (OSError, ValueError) as error:
        raise DisyreError(f"{Path(path).name} cannot be read; detect again.") from error


def _insist_on_stripped(scan: Volume) -> None:
    from DISYRECore.io.volume import to_canonical
    from DISYRECore.preprocessing.brain_mask import is_stripped

    if not is_stripped(to_canonical(scan)):
        raise DisyreError("The scan seems to show more than the brain; set the brain mask to Automatic.")


def _choose_model(scan: Volume, contrast: str | None, method: str | None) -> tuple[str, str]:
    """Id of the model made for the contrast of a scan, and why it was chosen."""
    from DISYRECore.detection.detector import model_for
    from DISYRECore.methods import find_method
    from DISYRECore.models.description import BRAIN_MRI, DEFAULT_METHOD, DEFAULT_MODEL, list_models
    from DISYRECore.preprocessing.prepare import prepare

    family = find_method(method or DEFAULT_METHOD).family
    if family not in (None, find_method(DEFAULT_METHOD).family):
        return model_for(method), f"made for {method}"
    models = [one for one in list_models() if one.modality == BRAIN_MRI and find_method(one.method).family == family]
    models = sorted(models, key=lambda model: model.id != DEFAULT_MODEL)
    if not models:
        return DEFAULT_MODEL, ""
    if len(models) == 1:
        return models[0].id, "the only model installed"
    found = contrast or prepare(scan, models[0].spacing_mm).contrast
    return _fitting(models, found)


def _fitting(models: list[ModelDescription], contrast: str) -> tuple[str, str]:
    for model in models:
        if contrast in model.contrasts:
            return model.id, f"made for {contrast}"
    return models[0].id, f"no model is made for the contrast {contrast}"


def _outcome(detection: Detection, detector: Detector, why: str) -> Event:
    """What a caller wants to know beside the images, as plain values."""
    from dataclasses import asdict

    record, description = detection.record, detector.model.description if detector.model else None
    return {
        "model": description.id if description else None,
        "model_title": description.title if description else "Z-score baseline (no model)",
        "why": why,
        "contrast": record["scan"]["contrast"],
        "border": detection.border,
        "levels": LEVELS,
        "findings": [asdict(finding) for finding in detection.findings],
        "record": record,
    }


def describe_device(device: Any) -> Event:
    """The event ``device`` for a torch device."""
    import torch

    if device.type != "cuda":
        return {"event": "device", "name": str(device), "title": f"{os.cpu_count()} CPU cores"}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "event": "device",
        "name": str(device),
        "title": torch.cuda.get_device_name(device),
        "free_gb": round(free / 1e9, 1),
        "total_gb": round(total / 1e9, 1),
    }


def _describe(error: Exception) -> Event:
    """The event ``error`` for an exception."""
    kind, message = "internal", f"Internal error: {type(error).__name__}: {error}"
    if isinstance(error, DisyreError):
        kind, message = error.kind, str(error)
    elif isinstance(error, ImportError):
        kind, message = "missing", f"The Python package '{error.name}' is missing; install what DISYRE needs."
    elif isinstance(error, MemoryError):
        kind, message = "oom", "Not enough memory for this scan; close other programs or use a larger machine."
    trace = "".join(traceback.format_exception(error))
    return {"event": "error", "kind": kind, "message": message.replace("\n", " "), "trace": trace}


def main(kind: type[Worker] = Worker) -> None:
    """Serves stdin and stdout, and ends the process; whatever else prints to stdout goes to stderr."""
    protocol = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: Event) -> None:
        try:
            print(json.dumps(event), file=protocol, flush=True)
        except OSError:  # nobody listens any more
            os._exit(CANCELLED)

    code = kind(sys.stdin, emit).run()
    sys.stderr.flush()
    os._exit(code)  # a thread may still wait for stdin


if __name__ == "__main__":
    main()
