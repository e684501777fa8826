"""The benchmarks beside the tests: what they look for in folders and detections."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support import ROOT

from DISYRECore.detection.detector import Detection
from DISYRECore.io.volume import Volume


def benchmark(name: str) -> ModuleType:
    path = ROOT / "Testing" / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def block(*places: tuple[int, int, int], side: int = 4, shape: tuple[int, int, int] = (40, 40, 20)) -> np.ndarray:
    marked = np.zeros(shape, bool)
    for x, y, z in places:
        marked[x : x + side, y : y + side, z : z + side] = True
    return marked


def detection(found: np.ndarray) -> Detection:
    volumes = {name: Volume(np.ones(found.shape, np.float32), np.eye(4)) for name in ("scan", "score", "restored")}
    labels, brain = (Volume(one.astype(np.uint8), np.eye(4)) for one in (found, np.ones(found.shape)))
    return Detection(**volumes, labels=labels, brain_mask=brain, findings=[], border=0.5)


def test_pictures_show_the_largest_missed_lesion_and_the_largest_false_finding() -> None:
    failures = benchmark("failures")
    hit, missed, false = (4, 4, 4), (20, 20, 12), (30, 6, 2)
    truth = block(hit, missed) | block((2, 30, 2), side=2)
    found = block(hit, false) | block((20, 2, 15), side=2)
    one, other = failures.failures(detection(found), truth, "T1")
    assert (one.missed, other.missed) == (True, False)
    assert one.volume_ml == other.volume_ml == pytest.approx(0.064)
    assert one.slices["truth"][21, 21]
    assert other.slices["labels"][31, 7]
    assert failures.draw(one).size == (3 * failures.TILE, failures.TILE + failures.CAPTION)


def test_pictures_show_nothing_where_nothing_is_wrong() -> None:
    lesion = block((4, 4, 4))
    assert not list(benchmark("failures").failures(detection(lesion), lesion, "T2"))


def test_patients_are_folders_with_a_mask(tmp_path: Path) -> None:
    for name in ("one/T1", "one/FLAIR", "one/lesion_mask", "unmarked/T2"):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    cases = list(benchmark("run")._patients(tmp_path))
    assert [(case.name, case.subject, case.contrast) for case in cases] == [
        ("one T1", "one", "T1"),
        ("one FLAIR", "one", "FLAIR"),
    ]
