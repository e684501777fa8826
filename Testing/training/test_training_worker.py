"""What the wizard has computed: requests to the worker, served by the real code on small scans."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support import TINY

from DISYRECore.apps.training_worker import TrainingWorker
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.training.config import read_config
from DISYRECore.training.tasks import restoration

CORRUPTION = {"families": {"fpi": 0.12, "dag": 0.18, "flat": 0.7}, "largest_mm": [70, 14], "faintest": 0.5}


@pytest.fixture(autouse=True)
def _few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))


@pytest.fixture
def plan(scans: Path, tmp_path: Path) -> dict[str, Any]:
    """A training of a tiny network."""
    network = {name: value for name, value in TINY.to_dict().items() if name != "kind"}
    settings = {"network": network, "slice_shape": [32, 28], "reuse": 1, "corruption": CORRUPTION}
    preset = {"name": "x", "task": "restoration", "images": 1.0, "spacing_mm": 6.0, "batch": 4, "steps": 40}
    values = {**preset, "warmup": 1, "every": 20, "contrasts": ["T1"], "settings": settings}
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    choices = {"name": "mine", "preset": str(path), "start": "", "contrasts": ["T1"]}
    return {"choices": choices, "images": str(scans), "cache": str(tmp_path / "cache")}


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def worker(told: list[dict[str, Any]]) -> TrainingWorker:
    return TrainingWorker(io.StringIO(), told.append)


def ask(worker: TrainingWorker, told: list[dict[str, Any]], command: str, **values: Any) -> dict[str, Any]:
    assert worker._serve({"command": command, **values})
    json.dumps(told)
    assert told[-1]["event"] == "result" or told[-1]["kind"] != "internal", told[-1]
    return told[-1]


def test_preparation_shows_scans_before_and_after(
    worker: TrainingWorker, told: list[dict[str, Any]], plan: dict[str, Any], tmp_path: Path
) -> None:
    done = ask(worker, told, "prepare", output=str(tmp_path / "pictures"), **plan)
    assert done["event"] == "result"
    assert min(done["scans"].values()) >= 1
    assert len(done["cases"]) == 3
    for case in done["cases"]:
        for name in ("before", "after"):
            assert np.asarray(Image.open(case[name])).std() > 0
    counts = [event["done"] for event in told if event["event"] == "count"]
    assert counts == list(range(1, sum(done["scans"].values()) + 1))


def test_the_gallery_follows_seed_and_sliders_and_nothing_else(
    worker: TrainingWorker, told: list[dict[str, Any]], plan: dict[str, Any], tmp_path: Path
) -> None:
    def drawn(seed: int, **sliders: float) -> np.ndarray:
        choices = {**plan["choices"], **sliders}
        values = {**plan, "choices": choices, "seed": seed, "output": str(tmp_path / "g.png")}
        return np.asarray(Image.open(ask(worker, told, "gallery", **values)["picture"]))

    first = drawn(1)
    assert first.shape == (2 * 32, 3 * 28, 3)
    assert (first == (34, 211, 238)).all(-1).any(), "nothing is outlined"
    loaded = worker.gallery_shown
    for other in (drawn(2), drawn(1, size_mm=12.0), drawn(1, bias=0.9)):
        assert (other != first).any()
    assert (drawn(1) == first).all()
    assert worker.gallery_shown is loaded, "the scans were read anew"


def test_cost_and_rehearsal_leave_nothing_behind(
    worker: TrainingWorker,
    told: list[dict[str, Any]],
    plan: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("DISYRECore.training.rehearsal.PROBE_S", 0.01)
    cost = ask(worker, told, "cost", device="cpu", **plan)
    assert cost["seconds"] > 0
    assert cost["disk_mb"] > 0
    output = tmp_path / "pictures" / "t.png"
    done = ask(worker, told, "rehearse", device="cpu", seconds=0.3, output=str(output), **plan)
    assert done["steps"] >= 1
    assert done["before"].keys() == done["after"].keys()
    assert output.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"preset.yaml", "cache", "pictures"}


def test_the_config_can_be_read_and_says_what_was_chosen(
    worker: TrainingWorker, told: list[dict[str, Any]], plan: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run" / "config.yaml"
    assert ask(worker, told, "config", choices={**plan["choices"], "steps": 7}, output=str(path))["steps"] == 7
    assert read_config(path).name == "mine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"nonsense": 1}, "nonsense"), ({"preset": "missing.yaml"}, "no preset")],
)
def test_choices_that_make_no_sense_are_refused(
    worker: TrainingWorker, told: list[dict[str, Any]], plan: dict[str, Any], tmp_path: Path, changes: Any, said: str
) -> None:
    choices = {**plan["choices"], **changes}
    answer = ask(worker, told, "config", choices=choices, output=str(tmp_path / "run" / "config.yaml"))
    assert (answer["event"], answer["kind"]) == ("error", "bad_input")
    assert said in answer["message"]
