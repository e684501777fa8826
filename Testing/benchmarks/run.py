"""The figures of the README, measured anew.

    python Testing/benchmarks/run.py LABELMAPS [--healthy DIR [--contrast NAME]] [--patients DIR] [--only NAME ...]

LABELMAPS is the folder of SynthSeg's 20 label maps; maps 18-20, which no model has seen, make the test set.
`--healthy` names a folder of healthy scans of one contrast, T1 unless `--contrast` says otherwise, that took no part in
calibration; `--patients` one with a folder for each patient, which holds scans named after their contrasts and a lesion
mask (`T1.nii.gz`, `lesion_mask.nii.gz`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings, strongest
from DISYRECore.detection.findings import component_evidence
from DISYRECore.detection.runner import VolumeRestorer
from DISYRECore.evaluation.calibrate import LOW_PROBABILITY
from DISYRECore.evaluation.datasets import Case, read_dataset
from DISYRECore.evaluation.evaluate import evaluate
from DISYRECore.evaluation.metrics import average_precision, best_dice, dice
from DISYRECore.io.read import find_scans
from DISYRECore.io.volume import Volume, resample
from DISYRECore.methods.base import Restore
from DISYRECore.methods.disyre_v2 import disyre_v2
from DISYRECore.models.store import load_model
from DISYRECore.preprocessing.prepare import PreparedBrain, prepare
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case, write_test_set
from DISYRECore.training.config import read_config
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks.base.batches import Batch
from DISYRECore.training.trainer import Trainer

CONFIG = Path(__file__).resolve().parents[2] / "Resources" / "Configs" / "brain-restoration.yaml"
HELD_OUT = ("training_seg_18.nii.gz", "training_seg_19.nii.gz", "training_seg_20.nii.gz")
VALIDATION = ("training_seg_15.nii.gz", "training_seg_16.nii.gz", "training_seg_17.nii.gz")
CASES, SEED = 36, 11
NOMINAL_CASES, NOMINAL_SEED = 80, 501
TRAINING_PAIRS = 24
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Peak memory of a command in kB; in a process of its own, since a child is counted from the peak of its parent on."""

PUBLISHED_WINDOW, PUBLISHED_STRIDE, PUBLISHED_STEPS = 128, 32, 4


def test_set(options: argparse.Namespace) -> Path:
    """The synthetic test set: held-out anatomies, a lesion family that training never sees."""
    folder = options.out / "testset"
    if not (folder / "dataset.json").is_file():
        write_test_set(folder, [options.labelmaps / name for name in HELD_OUT], CASES, SEED)
    return folder


def accuracy(options: argparse.Namespace) -> str:
    """All methods on the synthetic test set."""
    return evaluate(test_set(options), options.model, ["disyre-v2", "disyre"], options.out / "report", "cpu")


def healthy(options: argparse.Namespace) -> str:
    """False findings at the default on real healthy scans, stripped or whole heads."""
    if options.healthy is None:
        return "healthy: no folder was given"
    detector, contrast = Detector(options.model, device="cpu"), options.contrast
    scans = find_scans(options.healthy)
    counts = [len(detector.detect(path, contrast=contrast).findings) for path in scans]
    return (
        f"findings per healthy scan, {contrast}: {np.mean(counts):.2f} over {len(counts)} scans "
        f"(accepted {DEFAULT_FALSE_FINDINGS}; none in {counts.count(0)}, most {max(counts)})"
    )


def patients(options: argparse.Namespace) -> str:
    """The default method and the z-score baseline on real patients, on the grids of the scans. Never tune on these."""
    if options.patients is None:
        return "patients: no folder was given"
    detectors, lines = [Detector(options.model, device="cpu"), Detector(method="z-score", device="cpu")], []
    for case in _patients(options.patients):
        lines += [f"{case.name}, {detector.method}: {_on_patient(detector, case)}" for detector in detectors]
    return "\n".join(lines)


def _patients(folder: Path) -> Iterator[Case]:
    for mask in sorted(folder.glob("*/*mask*.nii.gz")):
        for contrast in ("T1", "T2", "FLAIR"):
            scan, patient = mask.with_name(f"{contrast}.nii.gz"), mask.parent.name
            if scan.is_file():
                yield Case(f"{patient} {contrast}", patient, contrast, scan, mask, brain_mask=None, healthy=False)


def _on_patient(detector: Detector, case: Case) -> str:
    scan, truth, mask = case.load()
    brain = prepare(scan, detector.spacing_mm, mask, case.contrast)
    score = detector.native_score(brain, detector.restoration(brain)[0].score).voxels[brain.native_mask]
    lesion, border = truth[brain.native_mask], detector.border(case.contrast)
    return (
        f"AP {average_precision(score, lesion):.3f}, oracle Dice {best_dice(score, lesion)[0]:.3f}, "
        f"Dice above the border {dice(score > border, lesion):.3f}, prevalence {lesion.mean():.4f}"
    )


def nominal(options: argparse.Namespace) -> str:
    """Findings in every second of 80 synthetic healthy scans, as rare as asked for by what the others have."""
    detector = Detector(options.model, device="cpu")
    bank = load_anatomies([options.labelmaps / name for name in VALIDATION + HELD_OUT])
    lines, unknown = [], HealthyFindings(LOW_PROBABILITY, 1, ())
    for contrast in ("T1", "T2", "FLAIR"):
        evidence = []
        for index in range(NOMINAL_CASES):
            case = synthesise_case(bank, index, NOMINAL_SEED, contrast=contrast, kind="none")
            brain = prepare(case.scan, detector.spacing_mm, case.brain_mask.voxels > 0, contrast)
            score = detector.native_score(brain, detector.restoration(brain)[0].score)
            evidence.append(component_evidence(score, brain.native_mask, unknown)[1][1:])
        known = HealthyFindings(LOW_PROBABILITY, len(evidence[::2]), strongest(evidence[::2]))
        counts = [int((one >= known.needed(DEFAULT_FALSE_FINDINGS)).sum()) for one in evidence[1::2]]
        lines.append(
            f"{contrast}: {np.mean(counts):.2f} findings per healthy scan at a nominal {DEFAULT_FALSE_FINDINGS}, "
            f"{len(counts)} scans, most {max(counts)}"
        )
    return "\n".join(lines)


def speed(options: argparse.Namespace) -> str:
    """Time and memory of the whole command on 1 mm volumes: a stripped T1 and FLAIR, a raw T1 head."""
    lines = []
    for name, contrast, whole in (
        ("stripped FLAIR", "FLAIR", []),
        ("stripped T1", "T1", []),
        ("raw T1", "T1", ["--head"]),
    ):
        folder = options.out / "speed" / name.replace(" ", "-")
        drawn = ["--count", "1", "--seed", str(SEED), "--contrasts", contrast, "--kinds", "mass", *whole]
        maps = ["--labelmaps", str(options.labelmaps), "--maps", HELD_OUT[0]]
        _disyre("synthesize", "-o", str(folder), *maps, *drawn)
        command = ["detect", str(next(folder.glob("case-*/scan.nii.gz"))), "-o", str(folder / "result")]
        costs = [_disyre(*command, "--model", options.model, "--device", "cpu") for _ in range(3)]
        seconds, peaks_gb = zip(*costs, strict=True)
        stages = json.loads((folder / "result" / "run.json").read_text())["seconds"]
        cost = f"median {np.median(seconds):.1f} s of 3, peak memory {max(peaks_gb):.2f} GB"
        lines.append(f"detect, {name}: {cost}; stages {stages}")
    return "\n".join(lines)


def _disyre(*arguments: str) -> tuple[float, float]:
    """Seconds and peak memory in GB of a command, in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "DISYRECore", *arguments]
    said = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE, check=True, text=True)
    return time.perf_counter() - start, int(said.stdout) / 2**20


def windows(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows that cover `length`."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def windowed(restore: Restore, window: int, stride: int) -> Restore:
    """The published sliding window around a restorer: overlapping patches, Gaussian weights."""
    axis = torch.arange(window) - (window - 1) / 2
    bell = torch.exp(-0.5 * (axis / (0.125 * window)) ** 2)
    weight = torch.outer(bell, bell).clamp(min=1e-3)

    def run(volume: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        total, logits, norm = torch.zeros_like(volume), torch.zeros_like(volume), torch.zeros_like(volume)
        for y in windows(volume.shape[1], window, stride):
            for x in windows(volume.shape[2], window, stride):
                place = (slice(None), slice(y, y + window), slice(x, x + window))
                image, region = restore(volume[place], step)
                share = weight[: image.shape[1], : image.shape[2]]
                total[place] += image * share
                norm[place] += share
                if region is not None:
                    logits[place] += region * share
        return total / norm, logits / norm

    return run


class Counted:
    """A restorer that keeps count of the pixels it was given."""

    def __init__(self, restore: Restore) -> None:
        self.restore, self.pixels = restore, 0

    def __call__(self, volume: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        self.pixels += volume.numel()
        return self.restore(volume, step)


def pixels(options: argparse.Namespace) -> str:
    """Pixels processed and AP, whole slices against the published sliding window with the same network."""
    detector = Detector(options.model, device="cpu")
    ours, theirs, scores = 0.0, 0.0, {"whole": [], "windowed": []}
    labels = []
    for brain, truth, native in _sick(options, detector, count=6):
        x, mask = brain.tensors()
        restore = VolumeRestorer(load_model(options.model).network)
        sides = [int(np.ptp(np.nonzero(native.any(tuple(k for k in range(3) if k != i)))[0])) + 1 for i in range(3)]
        count = len(windows(sides[0], PUBLISHED_WINDOW, PUBLISHED_STRIDE)) * len(
            windows(sides[1], PUBLISHED_WINDOW, PUBLISHED_STRIDE)
        )
        theirs += sides[2] * count * PUBLISHED_WINDOW**2 * PUBLISHED_STEPS
        whole = Counted(restore)
        for name, call in (("whole", whole), ("windowed", windowed(restore, 64, 16))):
            made = disyre_v2(call, x, mask, **detector.settings_for(brain.contrast))
            scores[name].append(made.score.numpy()[mask.numpy()])
        ours += whole.pixels
        labels.append(truth[mask.numpy()])
    truth = np.concatenate(labels)
    ap = {name: average_precision(np.concatenate(values), truth) for name, values in scores.items()}
    share = f"pixels: 1/{theirs / ours:.1f} of the published window"
    return f"{share}; AP whole slices {ap['whole']:.3f}, windows {ap['windowed']:.3f}"


def _sick(
    options: argparse.Namespace, detector: Detector, count: int
) -> Iterator[tuple[PreparedBrain, np.ndarray, np.ndarray]]:
    for case in read_dataset(test_set(options)).cases[:count]:
        scan, truth, mask = case.load()
        brain = prepare(scan, detector.spacing_mm, mask, case.contrast)
        on_grid = resample(Volume(truth.astype(np.float32), scan.affine), brain.image.grid)
        yield brain, on_grid.voxels.T > 0.5, mask


def training(options: argparse.Namespace) -> str:
    """Images per second with synthesis and corruption, as a share of the bare network step."""
    torch.set_num_threads(1)
    settings = read_config(CONFIG)
    trainer = Trainer(settings, TrainingData(labelmaps=options.labelmaps), options.out / "training", "cpu")
    make, batch = trainer.task.make, trainer.task.make(settings.batch, 0)

    def the_same(_count: int, _seed: int) -> Batch:
        return batch

    full, bare = [], []
    for _ in range(TRAINING_PAIRS):
        for times, source in ((full, make), (bare, the_same)):
            trainer.task.make = source
            times.append(_seconds(trainer.train_step, repeats=1))
    alone = np.median([_seconds(lambda seed=seed: make(settings.batch, seed), repeats=1) for seed in range(8)])
    return (
        f"training: {settings.batch / np.median(full):.1f} images/s with synthesis, "
        f"{settings.batch / np.median(bare):.1f} bare: {np.median(bare) / np.median(full):.0%} (medians of "
        f"{TRAINING_PAIRS} in turn); synthesis and corruption alone {settings.batch / alone:.0f} images/s"
    )


def _seconds(call: Callable[[], object], repeats: int = 4) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


PARTS = {
    "accuracy": accuracy,
    "healthy": healthy,
    "patients": patients,
    "nominal": nominal,
    "speed": speed,
    "pixels": pixels,
    "training": training,
}


def main() -> None:
    """Runs all parts or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelmaps", type=Path)
    parser.add_argument("--healthy", type=Path)
    parser.add_argument("--contrast", default="T1")
    parser.add_argument("--patients", type=Path)
    parser.add_argument("--model", default="brain-restoration")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    for name in options.only:
        print(PARTS[name](options), flush=True)


if __name__ == "__main__":
    main()
