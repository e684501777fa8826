"""Runs as their users meet them: events, pauses, kills, full disks, two in one folder."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support import ONE_SENTENCE, ROOT
from support import TINY as NETWORK
from torch import Tensor

from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.models.store import load_model
from DISYRECore.training import checkpoint, train
from DISYRECore.training.checkpoint import CHECKPOINT, LOG, PROGRESS, tidy
from DISYRECore.training.config import TrainingConfig, read_config
from DISYRECore.training.control import CONTROL, LOCK, PAUSE, RESUME, STOP, Control, locked
from DISYRECore.training.data import TrainingData
from DISYRECore.training.events import to_stdout
from DISYRECore.training.schedule import work_left
from DISYRECore.training.tasks import restoration
from DISYRECore.training.tasks.restoration import RestorationSettings
from DISYRECore.training.trainer import Trainer

TINY = TrainingConfig(
    name="tiny",
    task="restoration",
    settings=RestorationSettings(network=NETWORK, slice_shape=(32, 28)),
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    spacing_mm=6.0,
    batch=2,
    steps=6,
    warmup=2,
    learning_rate=1e-2,
    every=2,
)
CONFIG = """
name: tiny
task: restoration
train: ["head_[01].nii.gz"]
validation: [head_2.nii.gz]
spacing_mm: 6
batch: 2
steps: {steps}
warmup: 2
learning_rate: 0.01
every: 5
settings:
  network: {{channels: [8, 16], blocks: 1, groups: 4, fold: 2, context: 1, region: true, residual: true}}
  slice_shape: [32, 28]
"""
SCRIPT = """
import sys
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.training.tasks import restoration
from DISYRECore.apps.cli import main

restoration.make_shape_bank = lambda seed: make_shape_bank(8, seed=seed)
restoration.RestoringTask.validate.__defaults__ = (restoration.VALIDATION_SEED, 8)
sys.exit(main(["train", *sys.argv[1:], "--events"]))
"""


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))
    monkeypatch.setattr(restoration.RestoringTask.validate, "__defaults__", (restoration.VALIDATION_SEED, 8))


class Listener:
    """Keeps the events of a run, and says a word at one of them."""

    def __init__(self, at: str = "", word: str = "", out: Path | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.at, self.word, self.out = at, word, out

    def __call__(self, event: str, **values: Any) -> None:
        self.events.append({"event": event, **values})
        if event == self.at and self.out is not None:
            (self.out / CONTROL).write_text(self.word)

    def names(self) -> list[str]:
        return [one["event"] for one in self.events]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def whole(labelmaps: Path, tmp_path: Path) -> dict[str, Tensor]:
    """What an uninterrupted run comes to."""
    run = Trainer(TINY, TrainingData(labelmaps=labelmaps), tmp_path / "whole", "cpu")
    run.run()
    return run.state.tensors()


# Events


def test_a_run_tells_what_it_does(labelmaps: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu", listener)
    json.dumps(listener.events, allow_nan=False)
    names = listener.names()
    assert (names[0], names[-1]) == ("start", "end")
    assert set(names) == {"start", "step", "validation", "sample", "checkpoint", "outcome", "end"}
    told = {one["event"]: one for one in listener.events}
    assert (told["start"]["steps"], told["start"]["step"], told["start"]["name"]) == (6, 0, "tiny")
    assert told["step"].keys() >= {"step", "stage", "losses", "learning_rate", "images_per_s", "left_s"}
    assert sum(told["step"]["losses"].values()) > 0
    assert [one["step"] for one in listener.events if one["event"] == "validation"] == [2, 4, 6]
    assert (told["end"]["reason"], told["end"]["step"]) == ("finished", 6)
    assert load_model(told["end"]["model"]).description.id == "tiny"
    picture = np.asarray(Image.open(told["sample"]["path"]))
    assert picture.shape == (3 * 32, 3 * 28)
    assert picture.std() > 10
    progress = json.loads((tmp_path / PROGRESS).read_text())
    assert (progress["state"], progress["step"], progress["best_score"]) == ("finished", 6, told["end"]["best_score"])


def test_events_are_lines_of_json_and_nobody_needs_to_listen(capsys: pytest.CaptureFixture[str]) -> None:
    to_stdout("step", step=3)
    assert json.loads(capsys.readouterr().out) == {"event": "step", "step": 3}
    code = "import sys, time; from DISYRECore.training.events import to_stdout\n"
    code += "for step in range(9): to_stdout('step', step=step); time.sleep(0.02)\nprint('done', file=sys.stderr)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read().strip() == "done"


def test_time_left_counts_the_work_of_each_stage() -> None:
    small = replace(TINY, steps=10, batch=4, settings=replace(TINY.settings, crop=14))
    staged = replace(TINY, steps=16, stages=(small, TINY))
    whole, crops = 6 * 2 * 32 * 28, 10 * 4 * 14 * 14
    assert [work_left(staged, step) for step in (0, 5, 10, 13, 16)] == [
        whole + crops, whole + crops // 2, whole, whole // 2, 0,
    ]  # fmt: skip


# What the user wants


def test_the_last_word_counts_and_a_stop_is_final(tmp_path: Path) -> None:
    (tmp_path / CONTROL).write_text("stop")
    control = Control(tmp_path)
    assert control.look() == RESUME
    for word, expected in (
        ("pause\n", PAUSE),
        ("nonsense", PAUSE),
        ("resume", RESUME),
        ("stop", STOP),
        ("pause", STOP),
    ):
        (tmp_path / CONTROL).write_text(word)
        assert control.look() == expected
        assert not (tmp_path / CONTROL).exists()


def test_signals_are_heard_only_meanwhile(tmp_path: Path) -> None:
    control, before = Control(tmp_path), signal.getsignal(signal.SIGTERM)
    with control.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert control.look() == PAUSE
        os.kill(os.getpid(), signal.SIGUSR2)
        assert control.look() == RESUME
        os.kill(os.getpid(), signal.SIGTERM)
        assert control.look() == STOP
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_paused_run_waits_with_everything_saved_and_goes_on_exactly(
    labelmaps: Path, tmp_path: Path, whole: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, listener = tmp_path / "out", Listener("validation", "pause", tmp_path / "out")
    saved: list[int] = []

    def wait(_: float) -> None:
        saved.append(json.loads((out / PROGRESS).read_text())["step"])
        assert json.loads((out / PROGRESS).read_text())["state"] == "paused"
        with safe_open(out / CHECKPOINT, "pt") as stored:
            assert json.loads(stored.metadata()["progress"])["step"] == saved[-1]
        if len(saved) % 3 == 0:
            (out / CONTROL).write_text("resume")

    monkeypatch.setattr("DISYRECore.training.trainer.time.sleep", wait)
    train(TINY, TrainingData(labelmaps=labelmaps), out, "cpu", listener)
    assert saved == [2, 2, 2, 4, 4, 4]
    assert (listener.names().count("paused"), listener.names().count("resumed")) == (2, 2)
    assert equal(load_file(out / CHECKPOINT), whole)


def test_a_stopped_run_keeps_the_best_and_can_be_taken_up_again(
    labelmaps: Path, tmp_path: Path, whole: dict[str, Tensor]
) -> None:
    out, listener = tmp_path / "out", Listener("checkpoint", "stop", tmp_path / "out")
    train(TINY, TrainingData(labelmaps=labelmaps), out, "cpu", listener)
    assert (listener.events[-1]["reason"], listener.events[-1]["step"]) == ("stopped", 2)
    assert load_model(str(out / "tiny")).description.training["steps"] == 2
    train(TINY, TrainingData(labelmaps=labelmaps), out, "cpu")
    assert equal(load_file(out / CHECKPOINT), whole)


# Best weights


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    given = iter(scores)
    monkeypatch.setattr(
        restoration.RestorationTask,
        "validate",
        lambda self, network, seed=0: {"ap_region": 0.5 if seed else next(given)},
    )


def test_the_model_is_that_of_the_best_validation(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.2, 0.6, 0.4])
    train(TINY, TrainingData(labelmaps=labelmaps), tmp_path / "whole", "cpu")
    scripted(monkeypatch, [0.2, 0.6])
    Trainer(TINY, TrainingData(labelmaps=labelmaps), tmp_path / "part", "cpu").run(until=4)
    best, part = (load_model(str(tmp_path / name / "tiny")) for name in ("whole", "part"))
    assert best.description.training["steps"] == 4
    assert best.sha256 == part.sha256
    assert json.loads((tmp_path / "whole" / PROGRESS).read_text())["best_step"] == 4


def test_a_run_ends_when_validation_does_not_get_better(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient, listener = replace(TINY, steps=20, patience=2), Listener()
    scripted(monkeypatch, [0.2, 0.6, 0.5, 0.6])
    train(patient, TrainingData(labelmaps=labelmaps), tmp_path, "cpu", listener)
    assert (listener.events[-1]["reason"], listener.events[-1]["step"]) == ("patience", 8)
    train(patient, TrainingData(labelmaps=labelmaps), tmp_path, "cpu", listener)
    assert (listener.events[-1]["reason"], listener.events[-1]["step"]) == ("patience", 8)


# Crashes


def test_a_crash_between_any_two_writes_is_made_good(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file, left = os.replace, 0
    short = replace(TINY, steps=4)
    Trainer(short, TrainingData(labelmaps=labelmaps), tmp_path / "whole", "cpu").run()
    whole = load_file(tmp_path / "whole" / CHECKPOINT)

    def crash(source: Any, target: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", crash)
    complete = (tmp_path / "whole" / LOG).read_text().splitlines()
    for number in range(1, 60):
        out, left = tmp_path / str(number), number
        try:
            Trainer(short, TrainingData(labelmaps=labelmaps), out, "cpu").run()
            break
        except KeyboardInterrupt:
            left = 0
        resumed = Trainer(short, TrainingData(labelmaps=labelmaps), out, "cpu")
        kept = [json.loads(line)["step"] for line in _lines(out)]
        assert kept == [step for step in (2, 4) if step <= resumed.step]
        resumed.run()
        assert equal(resumed.state.tensors(), whole)
        assert [_timeless(line) for line in _lines(out)] == [_timeless(line) for line in complete]
        assert load_model(str(out / "tiny")).sha256 == load_model(str(tmp_path / "whole" / "tiny")).sha256
    assert number > 7


def _lines(out: Path) -> list[str]:
    return (out / LOG).read_text().splitlines() if (out / LOG).exists() else []


def _timeless(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name not in ("time", "processor_s")}


def test_half_a_line_and_what_came_later_are_taken_out_of_the_log(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"step":')
    (tmp_path / "model.part").write_text("half")
    tidy(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == [LOG]
    assert (tmp_path / LOG).read_text() == '{"step": 2}\n{"step": 4}\n'


def start(labelmaps: Path, folder: Path, steps: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG.format(steps=steps))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    places = [str(folder / "config.yaml"), "--labelmaps", str(labelmaps), "-o", str(folder / "out")]
    command = [sys.executable, "-c", SCRIPT, *places, "--device", "cpu"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def finish(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in told.splitlines()]


def kill_at_random(labelmaps: Path, folder: Path, times: int, steps: int) -> dict[str, Tensor]:
    """Runs to the end, with SIGKILL at random moments on the way."""
    draw = random.Random(times)
    for _ in range(times):
        process = start(labelmaps, folder, steps)
        for event in events(process):
            if event["event"] == "checkpoint":
                time.sleep(draw.uniform(0, 0.6))
                process.kill()
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(labelmaps, folder, steps))
    return load_file(folder / "out" / CHECKPOINT)


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_process_resumes_bit_for_bit(labelmaps: Path, tmp_path: Path, times: int) -> None:
    steps = 30 * times
    killed = kill_at_random(labelmaps, tmp_path / "killed", times, steps)
    config = read_config(tmp_path / "killed" / "config.yaml")
    train(config, TrainingData(labelmaps=labelmaps), tmp_path / "whole" / "out", "cpu")
    assert equal(killed, load_file(tmp_path / "whole" / "out" / CHECKPOINT))
    logs = ([_timeless(line) for line in _lines(tmp_path / name / "out")] for name in ("killed", "whole"))
    assert next(logs) == next(logs)
    models = [load_model(str(tmp_path / name / "out" / "tiny")) for name in ("killed", "whole")]
    assert models[0].sha256 == models[1].sha256
    about = [{**model.description.training, "processor_s": 0} for model in models]
    assert about[0] == about[1]


@pytest.mark.slow
def test_a_process_stops_on_sigterm_with_a_model(labelmaps: Path, tmp_path: Path) -> None:
    process = start(labelmaps, tmp_path, 4000)
    for event in events(process):
        if event["event"] == "checkpoint":
            process.terminate()
            break
    end = finish(process)[-1]
    assert (end["event"], end["reason"]) == ("end", "stopped")
    assert load_model(end["model"]).description.training["steps"] == end["best_step"]


FULL = """
import resource
from DISYRECore.training import checkpoint
write = checkpoint.save_file
def save_file(tensors, path, about):
    size = sum(value.nbytes for value in tensors.values())
    if '"step": 10' in about["progress"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
    write(tensors, path, about)
checkpoint.save_file = save_file
"""


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_sentence_and_the_last_checkpoint_is_whole(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", FULL + SCRIPT)
    process = start(labelmaps, tmp_path, 15)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith("disyre: The run cannot be saved in")
    assert json.loads(told.splitlines()[-1])["event"] == "error"
    assert not list(tmp_path.rglob("*.part"))
    resumed = Trainer(read_config(tmp_path / "config.yaml"), TrainingData(labelmaps=labelmaps), tmp_path / "out", "cpu")
    assert resumed.step == 5


@pytest.mark.parametrize("name", ["save_file", "write_text"])
def test_whatever_cannot_be_written_leaves_the_checkpoint_whole(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = Trainer(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    run.run(until=2)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint if name == "save_file" else Path, name, full)
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        run.run()
    assert "No space left" in str(refusal.value)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_disk_without_room_is_refused_before_anything_is_done(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        train(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    assert refusal.value.kind == "output"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_memory_and_files_stay_as_they_are_over_2000_steps(labelmaps: Path, tmp_path: Path) -> None:
    config = replace(TINY, steps=2000, every=500)
    run = Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    used = []
    for until in range(500, 2001, 500):
        run.run(until=until)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * resource.getpagesize() / 2**20)
    assert max(used[1:]) - used[0] < 10, used
    assert len(_lines(tmp_path)) == 4
    assert (tmp_path / PROGRESS).stat().st_size < 2000
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 4_000_000


# Folders


def test_two_runs_in_one_folder_are_refused_and_a_lock_left_behind_is_taken_over(
    labelmaps: Path, tmp_path: Path
) -> None:
    (tmp_path / LOCK).write_text("999999")
    with locked(tmp_path):
        with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
            train(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
        assert str(os.getpid()) in str(refusal.value)
        assert not (tmp_path / CHECKPOINT).exists()
    train(replace(TINY, steps=2), TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("change", [{"seed": 5}, {"spacing_mm": 5.0}, {"name": "other"}, {"optimiser": "muon"}])
def test_a_folder_of_another_run_is_refused_in_one_sentence(
    labelmaps: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    Trainer(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu").save()
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        Trainer(replace(TINY, **change), TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    assert next(iter(change)) in str(refusal.value)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
