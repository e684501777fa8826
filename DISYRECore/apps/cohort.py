"""Detection over one case or many; data flow one way:

find cases ─► plan: keep or compute ─► old results out of the way ─► compute into a hidden folder ─► swap in ─► summary

Everything unfinished lies in `OUTPUT/.disyre`: ``old`` holds the results of cases that are about to be computed,
``new`` what is being written. Whenever a run ends, and when the next one starts after it was killed, ``new`` is removed
and what is in ``old`` goes back to its place, if that is free. So at every moment a result in its place is whole and of
its case.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout
from tqdm import tqdm

from DISYRECore.apps.cases import Case
from DISYRECore.apps.output import (
    FINDINGS,
    RECORD,
    REPORT,
    THUMBNAIL,
    check_free,
    doubts,
    move_result,
    read_record,
    remove_result,
    write_result,
)
from DISYRECore.detection.detector import Detection, Detector, Prepared
from DISYRECore.detection.runner import Progress, release_memory
from DISYRECore.detection.study import PreparedStudy, detect_study, prepare_study
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable, short_name
from DISYRECore.reports.cohort import (
    FAILED,
    LEFT_OUT,
    OK,
    WAITING,
    CaseSummary,
    read_summary,
    write_index,
    write_summary,
)
from DISYRECore.version import __version__

SUMMARY, INDEX = "summary.csv", "index.html"
WORK, OLD, NEW, LOCK = ".disyre", "old", "new", "lock"
NO_MEMORY = "Not enough memory for this scan; close other programs or use a larger machine."


@dataclass(frozen=True)
class Recipe:
    """How each case is computed; hashable, so that a process loads its detector once.

    Attributes:
        model, method, device, batch, score, site, modality: Of `Detector`.
        study: Whether the scans of a case are taken together.
        border, false_findings: Of `Detector.detect`.
        dicom: Whether results are written as DICOM objects too.
        run: Of its own for each run, beyond which no process keeps a detector: models and calibrations may change.
    """

    model: str | None = None
    method: str | None = None
    device: str = "auto"
    batch: int = 16
    score: str | None = None
    site: str | None = None
    modality: str | None = None
    study: bool = False
    border: float | None = None
    false_findings: float = 0.5
    dicom: bool = False
    run: str = field(default_factory=lambda: uuid4().hex)

    @property
    def detector(self) -> Detector:
        """The detector, loaded when it is first asked for."""
        return _detector(self)

    def sha256(self) -> str:
        """Of everything but the scan that a result depends on."""
        detector = self.detector
        site = asdict(detector.site) if detector.site else None
        chosen = self.study, self.border, self.false_findings, detector.modality.name, self.dicom
        values = __version__, detector.basis(), asdict(detector.usage), site, chosen
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def _detector(recipe: Recipe) -> Detector:
    r = recipe
    return Detector(r.model, r.method, r.device, r.batch, r.score, r.site, r.modality)


@dataclass(frozen=True)
class Ready:
    """A case that was read and prepared, with the hash of what was read."""

    case: Case
    content_sha256: str
    prepared: Prepared | PreparedStudy


Compute = Callable[[Sequence[Case], Recipe, Path], Iterator[CaseSummary]]
"""Computes cases in any order and writes their results below a folder; gives one row for each."""


def run_one(case: Case, recipe: Recipe, output: Path) -> None:
    """Detects in one case, whose result goes into the output folder itself.

    Raises:
        DisyreError: The scan cannot be used, or the output folder cannot be written to.
    """
    check_writable(output)
    with _work(output):
        if _is_done(case, recipe.sha256(), output):
            _say("Nothing has changed since this result was made: it is kept.")
        else:
            _clear([case], output)
            with _removing_on_failure(output / WORK / OLD):
                _finish(load(case, recipe), recipe, output)
    _say(str(output / REPORT), sys.stdout)


def run_cohort(cases: Sequence[Case], recipe: Recipe, output: Path, compute: Compute | None = None) -> int:
    """Detects in every case that is not done yet; one bad case does not stop the others.

    Args:
        cases: With names.
        recipe: Of all.
        output: Gets a folder for each case, `summary.csv` and `index.html`; other cases in it are left alone.
        compute: `compute_here` when None.

    Returns:
        Exit code: 0 when every case succeeded, 2 otherwise.

    Raises:
        DisyreError: The output folder cannot be written to, or another run is writing to it.
    """
    check_writable(output)
    output = Path(os.path.abspath(output))
    with _work(output):
        settings = recipe.sha256()
        done = {case.name for case in cases if _is_done(case, settings, output)}
        waiting = [case for case in cases if case.name not in done]
        rows = _rows_before(cases, done, output)
        _clear(waiting, output)
        (output / INDEX).unlink(missing_ok=True)
        write_summary(rows.values(), output / SUMMARY)
        try:
            for row in (compute or compute_here)(waiting, recipe, output):
                remove_result(output / WORK / OLD / row.case)
                rows[row.case] = row
                write_summary(rows.values(), output / SUMMARY)
                _tell(row, output)
        finally:
            write_index(list(rows.values()), output, REPORT, THUMBNAIL)
    _tell_all([rows[case.name] for case in cases], len(done), output)
    return 0 if all(rows[case.name].status in (OK, LEFT_OUT) for case in cases) else 2


# --- before


@contextmanager
def _work(output: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, and puts its hidden folder in order before and after."""
    work = output / WORK
    work.mkdir(exist_ok=True)
    lock = FileLock(work / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DisyreError(
            f"Another run is writing to {output}; wait for it or choose another folder.", "output"
        ) from None
    try:
        _put_back(output)
        yield
    finally:
        _put_back(output)
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _put_back(output: Path) -> None:
    """Removes what is half-written, and returns the old results of cases that have no new one."""
    new, old = output / WORK / NEW, output / WORK / OLD
    shutil.rmtree(new, ignore_errors=True)
    for record in sorted(old.rglob(RECORD), key=lambda path: -len(path.parts)):
        place = output / record.parent.relative_to(old)
        if not (place / RECORD).exists():
            remove_result(place)
            move_result(record.parent, place)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _removing_on_failure(old: Path) -> Iterator[None]:
    """Where the case fails, its old result is not put back: it could be taken for new."""
    try:
        yield
    except Exception:
        remove_result(old)
        raise


def _is_done(case: Case, settings_sha256: str, output: Path) -> bool:
    """Whether there is a result of the same content and settings."""
    record = read_record(output / case.name)
    if record.get("settings_sha256") != settings_sha256:
        return False
    try:
        return bool(record.get("input_sha256") == case.content_sha256())
    except OSError:
        return False


def _clear(cases: Sequence[Case], output: Path) -> None:
    """Moves old results out of the way."""
    for case in cases:
        place = output / case.name
        check_free(place)
        if (place / RECORD).exists():
            move_result(place, output / WORK / OLD / case.name)
        remove_result(place)


def _rows_before(cases: Sequence[Case], done: set[str], output: Path) -> dict[str, CaseSummary]:
    """The rows of other cases in the folder, of those that are done, and of those that wait."""
    names = {case.name for case in cases}
    others = [row for row in read_summary(output / SUMMARY) if row.case not in names]
    rows = {row.case: row for row in others if row.status != OK or read_record(output / row.case)}
    return rows | {case.name: read_row(case, output) if case.name in done else _row(case, WAITING) for case in cases}


# --- one case


def load(case: Case, recipe: Recipe) -> Ready:
    """Reads and prepares a case.

    Raises:
        DisyreError: It cannot be used.
    """
    try:
        content = case.content_sha256()
    except OSError as error:
        name = short_name(error.filename or case.scans[0])
        raise DisyreError(f"{name} cannot be read ({error.strerror}); check the path.") from error
    if recipe.study:
        return Ready(case, content, prepare_study(recipe.detector, case.scans))
    return Ready(case, content, recipe.detector.prepare(case.scans[0], case.mask, case.contrast))


def _finish(ready: Ready, recipe: Recipe, output: Path) -> None:
    """Computes a case that was loaded, and swaps its result in."""
    with _bar() as progress:
        detection = _detect(ready, recipe, progress)
    case, new = ready.case, output / WORK / NEW / uuid4().hex
    write_result(detection, new, case.title, recipe.dicom)
    move_result(new, output / case.name)
    for sentence in doubts(detection.record):
        _say(f"{case.name}: {sentence}" if case.name else sentence)


def _detect(ready: Ready, recipe: Recipe, progress: Progress) -> Detection:
    settings: dict[str, Any] = {
        "border": recipe.border,
        "false_findings": recipe.false_findings,
        "progress": progress,
    }
    if isinstance(ready.prepared, PreparedStudy):
        detection = detect_study(recipe.detector, ready.prepared, **settings)
    else:
        detection = recipe.detector.detect(ready.prepared, **settings)
    source = {
        "input": [str(scan) for scan in ready.case.scans],
        "input_sha256": ready.content_sha256,
        "settings_sha256": recipe.sha256(),
    }
    return replace(detection, record=detection.record | source)


def _attempt(case: Case, recipe: Recipe, output: Path, loaded: Callable[[], Ready]) -> CaseSummary:
    """Computes a case; whatever goes wrong costs this case alone."""
    try:
        _finish(loaded(), recipe, output)
        return read_row(case, output)
    except Exception as error:
        return failed(case, error)
    finally:
        release_memory()


def failed(case: Case, error: BaseException) -> CaseSummary:
    """The row of a case that came to nothing."""
    if isinstance(error, DisyreError):
        return _row(case, LEFT_OUT if error.kind == "labels" and case.found else FAILED, str(error))
    if isinstance(error, MemoryError):
        return _row(case, FAILED, NO_MEMORY)
    return _row(case, FAILED, f"Internal error: {type(error).__name__}: {error}".replace("\n", " "))


def compute_case(case: Case, recipe: Recipe, output: Path) -> CaseSummary:
    """Loads and computes one case, never raising; what a worker of a cluster does."""
    return _attempt(case, recipe, output, lambda: load(case, recipe))


def compute_here(cases: Sequence[Case], recipe: Recipe, output: Path) -> Iterator[CaseSummary]:
    """Computes cases one after the other; the next one is read and prepared in the meantime."""
    if not cases:
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(load, cases[0], recipe)
        for case, following in zip(cases, [*cases[1:], None], strict=True):
            loaded = ahead.result
            if following is not None:
                ahead = reader.submit(load, following, recipe)
            yield _attempt(case, recipe, output, loaded)


# --- rows and words


def read_row(case: Case, output: Path) -> CaseSummary:
    """The row of a result that is in its place."""
    record = read_record(output / case.name)
    with (output / case.name / FINDINGS).open(encoding="utf-8", newline="") as file:
        findings = list(csv.DictReader(file))
    known = [float(one["false_findings"]) for one in findings if one["false_findings"]]
    contrasts = [scan["contrast"] for scan in record.get("study", [record["scan"]])]
    return replace(
        _row(case, OK, " ".join(doubts(record))),
        findings=len(findings),
        volume_ml=round(sum(float(one["volume_ml"]) for one in findings), 3),
        false_findings=min(known, default=None),
        contrast=" ".join(contrasts),
        seconds=round(sum(record["seconds"].values()), 1),
    )


def _row(case: Case, status: str, message: str = "") -> CaseSummary:
    return CaseSummary(case.name, "; ".join(map(str, case.scans)), status, message=message)


def _tell(row: CaseSummary, output: Path) -> None:
    if row.status == OK:
        _say(str(output / row.case / REPORT), sys.stdout)
    else:
        _say(f"{row.case}: {row.message}")


def _tell_all(rows: Sequence[CaseSummary], kept: int, output: Path) -> None:
    count = {status: sum(row.status == status for row in rows) for status in (OK, FAILED, LEFT_OUT)}
    told = [f"{count[OK]} of {len(rows)} cases done", f"{kept} of them before" if kept else ""]
    told += [f"{count[status]} {status}" if count[status] else "" for status in (FAILED, LEFT_OUT)]
    _say(f"{', '.join(filter(None, told))}. Overview: {output / INDEX}")


def _say(sentence: str, stream: Any = None) -> None:
    """Prints a line; a reader that has gone away, as `head` does, costs nothing."""
    try:
        print(sentence if stream else f"disyre: {sentence}", file=stream or sys.stderr, flush=True)
    except OSError:
        with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), (stream or sys.stderr).fileno())


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal."""
    style = "{desc:<10} {percentage:3.0f} % |{bar}| {remaining} left"
    with tqdm(total=100, file=sys.stderr, bar_format=style, disable=None, leave=False) as bar:

        def progress(stage: str, share: float) -> None:
            bar.set_description_str(stage)
            if stage == "restore":
                bar.update(round(100 * share) - bar.n)

        yield progress
