"""The worker as a process: its events, its files, and that it stops when it is asked to or left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT

from DISYRECore.apps.cli import main
from DISYRECore.apps.worker import CANCELLED, LEVELS, _fitting, to_levels
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.io.write import write_volume
from DISYRECore.models.description import list_models

SCRIPT = ROOT / "DISYRECore" / "apps" / "worker.py"
SPACING_MM = 4.0
CANCEL_S = 3.0


class Process:
    """A worker that a test talks to."""

    def __init__(self, **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-u", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=os.path.sep,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.stdin, self.stdout = self.popen.stdin, self.popen.stdout

    def send(self, **request: Any) -> None:
        self.stdin.write(json.dumps(request) + "\n")
        self.stdin.flush()

    def events(self) -> Iterator[dict[str, Any]]:
        for line in self.stdout:
            yield json.loads(line)

    def until(self, *kinds: str) -> dict[str, Any]:
        return next(event for event in self.events() if event["event"] in kinds)

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self.until("result", "error", "cancelled")

    def end(self) -> int:
        self.stdin.close()
        try:
            return self.popen.wait(10)
        finally:
            self.popen.kill()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of tissue of a brain's size on 0, with one bright sphere."""
    place = (np.arange(40) - 19.5) * SPACING_MM
    x, y, z = np.meshgrid(place, place, place, indexing="ij")
    voxels = 100 + np.random.default_rng(0).normal(0, 5, x.shape)
    voxels[(x + 30) ** 2 + y**2 + z**2 < 12**2] = 220
    voxels[x**2 + y**2 + z**2 > 62**2] = 0
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = place[0]
    path = tmp_path_factory.mktemp("wörker scan") / "ball ä.nii.gz"
    write_volume(Volume(voxels.astype(np.float32), affine), path)
    return path


@pytest.fixture(scope="module")
def worker() -> Iterator[Process]:
    process = Process()
    yield process
    assert process.end() == 0


def test_writes_what_the_command_line_writes(worker: Process, scan: Path, tmp_path: Path) -> None:
    result = worker.ask(command="detect", input=str(scan), output=str(tmp_path / "w"), method="z-score", device="cpu")
    assert main(["detect", str(scan), "-o", str(tmp_path / "c"), "--method", "z-score", "--device", "cpu"]) == 0
    assert result["event"] == "result", result
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == sorted(p.name for p in (tmp_path / "c").iterdir())
    for name in ("score", "anomalies", "restored", "brain_mask"):
        one, other = (read_labels(tmp_path / folder / f"{name}.nii.gz") for folder in "wc")
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "w" / "findings.csv").read_text() == (tmp_path / "c" / "findings.csv").read_text()
    one, other = (json.loads((tmp_path / folder / "run.json").read_text()) for folder in "wc")
    assert without_times(one) == without_times(other)


def read_labels(path: Path) -> np.ndarray:
    import nibabel as nib

    return np.asarray(nib.load(path).dataobj)


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    other = ("finished", "seconds", "input", "input_sha256", "settings_sha256")
    return {key: value for key, value in record.items() if key not in other}


def test_tells_stages_in_order_and_progress_that_rises(worker: Process, scan: Path, tmp_path: Path) -> None:
    worker.send(command="detect", input=str(scan), output=str(tmp_path), device="cpu", files=False, arrays=True)
    events = []
    for event in worker.events():
        events.append(event)
        if event["event"] in ("result", "error"):
            break
    result = events[-1]
    assert result["event"] == "result", result
    stages = [event["name"] for event in events if event["event"] == "stage"]
    assert stages == ["load", "read", "prepare", "restore", "map back", "findings", "write"]
    values = [event["value"] for event in events if event["event"] == "progress"]
    assert values == sorted(values)
    assert values[0] >= 0
    assert values[-1] <= 1
    assert any(event["event"] == "device" for event in events)
    assert result["model"] == "brain-restoration"
    assert result["why"]
    assert not list(tmp_path.glob("*.nii.gz"))


def test_arrays_are_the_images_with_the_axes_reversed(worker: Process, scan: Path, tmp_path: Path) -> None:
    result = worker.ask(
        command="detect", input=str(scan), output=str(tmp_path), method="z-score", device="cpu", arrays=True
    )
    score = np.load(result["arrays"]["score"])
    np.testing.assert_array_equal(score, read_volume(tmp_path / "score.nii.gz").voxels.T)
    levels = np.load(result["arrays"]["levels"])
    mask = read_labels(tmp_path / "brain_mask.nii.gz").T > 0
    np.testing.assert_array_equal(levels > 0, mask)
    for hundredth in (0, 20, 55, 99):
        above = score > np.float32(hundredth / 100)
        assert ((levels > hundredth * LEVELS // 100) & mask == above & mask).mean() > 0.99999


def test_levels_are_the_score_rounded_up() -> None:
    score = np.array([0.0, 1e-6, 0.01, 0.0101, 0.55, 0.551, 1.0], np.float32)
    assert to_levels(score, np.ones(7)).tolist() == [1, 1, 1, 2, 55, 56, 100]
    assert to_levels(score, np.zeros(7)).max() == 0


@pytest.mark.parametrize(
    ("request_", "kind", "word"),
    [
        ({"input": "/nowhere/scan.nii.gz"}, "bad_input", "no file"),
        ({"model": "nonsense"}, "unknown_model", "brain-restoration"),
        ({"method": "nonsense"}, "bad_input", "z-score"),
        ({"output": "/proc/nowhere"}, "output", "written"),
    ],
)
def test_says_in_one_sentence_what_is_wrong(
    worker: Process, scan: Path, tmp_path: Path, request_: dict[str, str], kind: str, word: str
) -> None:
    whole = {"input": str(scan), "output": str(tmp_path), "device": "cpu", **request_}
    error = worker.ask(command="detect", **whole)
    assert (error["event"], error["kind"]) == ("error", kind)
    assert word in error["message"]
    assert "\n" not in error["message"]


def test_insists_on_a_scan_without_skull(worker: Process, scan: Path, tmp_path: Path) -> None:
    volume = read_volume(scan)
    noise = np.random.default_rng(1).normal(50, 10, volume.shape).astype(np.float32)
    full = tmp_path / "full.nii.gz"
    write_volume(Volume(volume.voxels + noise, volume.affine), full)
    error = worker.ask(command="detect", input=str(full), output=str(tmp_path), mask="stripped", device="cpu")
    assert error["event"] == "error"
    assert "Automatic" in error["message"]


def test_nonsense_does_not_end_it(worker: Process) -> None:
    worker.stdin.write("}{ nonsense\n[1, 2]\n")
    worker.stdin.flush()
    assert worker.until("error")["kind"] == "internal"
    assert worker.until("error")["kind"] == "internal"
    assert worker.ask(command="check")["versions"]["torch"]


def test_report_lists_what_is_kept(worker: Process, scan: Path, tmp_path: Path) -> None:
    arrays = worker.ask(
        command="detect",
        input=str(scan),
        output=str(tmp_path),
        method="z-score",
        device="cpu",
        files=False,
        arrays=True,
    )["arrays"]
    request = {"score": arrays["score"], "brain": arrays["levels"], "border": 0.3, "smallest_ml": 0.1}
    texts = []
    for keep in (None, []):
        written = worker.ask(command="report", input=str(scan), output=str(tmp_path), title="MRI", keep=keep, **request)
        texts.append(Path(written["report"]).read_text(encoding="utf-8"))
    assert "left" in texts[0]
    assert len(texts[1]) < len(texts[0])


def test_automatic_takes_the_model_made_for_the_contrast() -> None:
    general = list_models()[0]
    for_t1 = replace(general, id="for-t1", contrasts=("T1",))
    for_rest = replace(general, id="for-rest", contrasts=("T2", "FLAIR"))
    assert _fitting([for_t1, for_rest], "FLAIR") == ("for-rest", "made for FLAIR")
    assert _fitting([for_t1, for_rest], "T1") == ("for-t1", "made for T1")
    name, why = _fitting([for_t1, for_rest], "unknown")
    assert name == "for-t1"
    assert "no model is made" in why


@pytest.mark.parametrize("stage", ["load", "read", "prepare", "restore"])
def test_cancel_ends_it_in_time_at_every_stage(scan: Path, tmp_path: Path, stage: str) -> None:
    process = Process()
    process.send(command="detect", input=str(scan), output=str(tmp_path), device="cpu")
    next(event for event in process.events() if event["event"] == "stage" and event["name"] == stage)
    start = time.monotonic()
    process.send(command="cancel")
    assert process.popen.wait(2 * CANCEL_S) == CANCELLED
    assert time.monotonic() - start < CANCEL_S
    assert not list(tmp_path.iterdir())


def test_ends_when_the_caller_dies(scan: Path, tmp_path: Path) -> None:
    process = Process()
    process.send(command="detect", input=str(scan), output=str(tmp_path), device="cpu")
    process.until("stage")
    process.stdin.close()
    assert process.popen.wait(2 * CANCEL_S) == CANCELLED


def test_says_which_package_is_missing(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    process = Process(PYTHONPATH=str(tmp_path))
    error = process.ask(command="detect", input=str(scan), output=str(tmp_path), device="cpu")
    assert (error["kind"], process.end()) == ("missing", 0)
    assert "'torch'" in error["message"]


def test_further_scans_make_a_study(worker: Process, scan: Path, tmp_path: Path) -> None:
    request = {"input": str(scan), "output": str(tmp_path), "further": [str(scan)], "device": "cpu"}
    result = worker.ask(command="detect", **request)
    assert result["event"] == "result", result
    assert [one["name"] for one in result["record"]["study"]] == [scan.name]
    assert any("both" in warning for warning in result["record"]["warnings"])
