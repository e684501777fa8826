"""The example scripts run as they stand, outside the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import ROOT


def example(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_scan_is_detected(tmp_path: Path) -> None:
    said = example("detect_one", tmp_path, "-o", "result")
    assert "brain-restoration: " in said
    assert "1: " in said
    assert (tmp_path / "result" / "report.html").is_file()


def test_the_model_beats_the_z_score_baseline(tmp_path: Path) -> None:
    rows = [line.split() for line in example("compare_methods", tmp_path).splitlines()[1:]]
    precision = {method: float(value) for method, value, *_ in rows}
    assert precision["disyre-v2"] > precision["z-score"]


def test_a_tiny_network_is_trained(tmp_path: Path) -> None:
    said = example("train_tiny", tmp_path, "--steps", "20", "-o", "run")
    assert "step 20: " in said
    assert (tmp_path / "run" / "tiny-restoration" / "weights.safetensors").is_file()
