"""What a run measures at its end, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import TINY as NETWORK
from support import save_tiny

from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings, strongest
from DISYRECore.evaluation.calibrate import false_findings_elsewhere
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.models.description import DESCRIPTION, read_description
from DISYRECore.models.store import load_model
from DISYRECore.training import train
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.outcome import CARD, EXAMPLE
from DISYRECore.training.tasks import restoration
from DISYRECore.training.tasks.base.batches import Batch, z_score_precision
from DISYRECore.training.tasks.restoration import RestorationSettings

CONFIG: TrainingConfig[Any] = TrainingConfig(
    name="ours",
    title="Of our scanner",
    task="restoration",
    settings=RestorationSettings(network=NETWORK, slice_shape=(32, 28)),
    images=1.0,
    contrasts=("T1",),
    spacing_mm=6.0,
    batch=4,
    steps=4,
    warmup=1,
    every=2,
    start="begun",
    licence="CC0",
    data="Scans of ellipsoids",
)


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the user's models, among them one to start from."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))
        patch.setenv("DISYRE_MODELS", str(folder / "models"))
        save_tiny(folder / "models" / "begun")
        yield folder


@pytest.fixture(scope="module")
def told(scans: Path, place: Path) -> list[dict[str, Any]]:
    """Events of a run that started from a model and learnt from scans; its folder is ``out``."""
    events: list[dict[str, Any]] = []

    def listen(event: str, **values: Any) -> None:
        events.append({"event": event, **values})

    train(CONFIG, TrainingData(scans), place / "out", "cpu", listen)
    return events


def test_a_model_is_measured_beside_its_start_and_the_baseline(told: list[dict[str, Any]], place: Path) -> None:
    training = read_description(place / "out" / "ours").training
    comparison = training["comparison"]
    assert comparison.keys() == {"figure", "model", "start", "z-score"}
    assert all(0 < comparison[name] < 1 for name in ("model", "start", "z-score"))
    assert len({comparison[name] for name in ("model", "start", "z-score")}) == 3
    assert training["start"] == "begun"
    outcome = next(one for one in told if one["event"] == "outcome")
    assert outcome["comparison"] == comparison
    assert outcome["healthy"]["T1"]["scans"] == 1
    json.dumps(told, allow_nan=False)
    assert [one["event"] for one in told][-3:] == ["calibration", "outcome", "end"]


def test_what_needs_patients_is_of_the_start_and_rarity_of_own_scans(
    told: list[dict[str, Any]], place: Path, scans: Path
) -> None:
    ours, begun = (read_description(place / name) for name in ("out/ours", "models/begun"))
    assert replace(ours.detection, healthy={}) == begun.detection
    known = ours.detection.healthy["T1"]
    assert known["scans"] == 1
    detector = Detector(str(place / "out" / "ours"), device="cpu")
    assert detector.is_measured
    assert detector.detect(read_volume(scans / "p0_T1.nii.gz"), contrast="T1").findings is not None


def test_the_card_says_what_was_measured_and_names_no_scan(told: list[dict[str, Any]], place: Path) -> None:
    folder = place / "out" / "ours"
    text = (folder / CARD).read_text()
    training = read_description(folder).training
    for part in ("Of our scanner", "CC0", "Scans of ellipsoids", "begun", "Research use only", EXAMPLE):
        assert part in text
    for name in ("model", "start", "z-score"):
        assert f"{training['comparison'][name]:.3f}" in text
    assert (folder / EXAMPLE).is_file()
    for file in (folder / CARD, folder / DESCRIPTION):
        assert not any(f"p{index}_T1" in file.read_text() for index in range(6))


def test_measuring_again_gives_the_same(told: list[dict[str, Any]], place: Path, scans: Path) -> None:
    folder = place / "out" / "ours"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    train(CONFIG, TrainingData(scans), place / "out", "cpu")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert load_model(str(folder)).description.training["steps"] in (2, 4)


def test_a_run_from_label_maps_is_compared_but_knows_no_rarity(labelmaps: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, images=0.0, start="", train=("head_[01].nii.gz",), validation=("head_2.nii.gz",), steps=2)
    train(config, TrainingData(labelmaps=labelmaps), tmp_path / "out", "cpu")
    found = read_description(tmp_path / "out" / "ours")
    assert found.training["comparison"].keys() == {"figure", "model", "z-score"}
    assert found.detection.healthy == {}
    assert "how rare a finding is, is not known" in (tmp_path / "out" / "ours" / CARD).read_text()


def test_false_findings_are_counted_in_scans_that_set_no_threshold() -> None:
    draw = np.random.default_rng(0)
    alike = [draw.exponential(1.0, 20) for _ in range(40)]
    rate, (low, high) = false_findings_elsewhere(HealthyFindings(0.5, 40, strongest(alike)), alike)
    assert low < DEFAULT_FALSE_FINDINGS < high
    assert rate == pytest.approx(DEFAULT_FALSE_FINDINGS, abs=0.2)
    odd = [*alike[:3], 100 + draw.exponential(1.0, 20)]
    assert false_findings_elsewhere(HealthyFindings(0.5, 4, strongest(odd)), odd)[0] >= 5


def test_the_baseline_finds_what_is_bright_whatever_the_brightness_of_the_slice() -> None:
    image = torch.rand(4, 20, 20, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.3
    image[2:] += 0.3
    region = torch.zeros(4, 20, 20, dtype=torch.bool)
    region[1:3, 5:9, 5:9] = True
    mask = torch.ones_like(region)
    mask[3] = False
    batch = Batch((image + 0.2 * region)[:, None], image, mask, region, torch.zeros(4))
    assert z_score_precision(batch) == pytest.approx(1)
    assert z_score_precision(replace(batch, region=torch.zeros_like(region))) is None


def test_a_scan_that_cannot_be_read_at_the_end_is_left_out_with_a_warning(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from DISYRECore.training import outcome

    parts = outcome.prepare_scans(CONFIG, TrainingData(scans, cache=tmp_path / "cache"))
    chosen = [*parts["calibration"], replace(parts["validation"][0], scan=tmp_path / "gone.nii.gz")]
    events: list[str] = []
    brains = list(outcome._brains(chosen, CONFIG, TrainingData(scans), lambda event, **values: events.append(event)))
    assert len(brains) == 1
    assert isinstance(brains[0].image, Volume)
    assert events == ["calibration", "warning", "calibration"]
