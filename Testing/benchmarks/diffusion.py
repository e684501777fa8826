"""The figures of AnoFPDM and Synomaly: both setups beside tuned baselines, the strided path, network evaluations.

    python Testing/benchmarks/diffusion.py VALIDATION TEST --anofpdm MODEL --synomaly MODEL
                                           [--slices N] [--cases N] [--faithful-slices N] [--contrasts C ...]

VALIDATION and TEST are folders as `disyre synthesize` writes them, of different anatomies. The baselines have what
AnoFPDM never sees: noise level, guidance and threshold are those of the best mixed Dice on the validation slices,
searched with their pixel labels, and those slices have lesions of the family of the test slices. They use the network
of AnoFPDM; the z-score is tuned in the same way. Both methods run with what their training chose.

Slices are axial, of the model grid, in the frame of training. All masks go without regions of fewer than 41 of
128 x 128 pixels. Figures are those of `protocols.anofpdm`: in the setup *mixed*, all slices, where predicting nothing
scores the share of healthy slices (row *empty mask*); in *unhealthy*, those with a lesion, where AnoFPDM marks every
slice whatever its label. AUPRC is that of the scores before any decision.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from DISYRECore.corruption.diffusion import HEALTHY, NULL, advance, estimate, guided, to_signed
from DISYRECore.detection.runner import VolumeRestorer
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.datasets import Case, read_dataset
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.evaluation.protocols import ANOFPDM_SMOOTHING, PROTOCOLS
from DISYRECore.evaluation.streaming import cache_prediction
from DISYRECore.io.volume import Volume, resample
from DISYRECore.methods.anofpdm import (
    FORWARD_STEPS,
    SPEC,
    Walk,
    dynamic,
    forward,
    median_in_plane,
    path,
    quantile_levels,
    without_specks,
)
from DISYRECore.methods.anofpdm import SCHEDULE as LINEAR
from DISYRECore.methods.base import Restore
from DISYRECore.methods.base.slicewise import THRESHOLD
from DISYRECore.methods.synomaly import anomalous, synomaly
from DISYRECore.methods.z_score import z_score
from DISYRECore.models.device import pick_device
from DISYRECore.models.store import Model, load_model
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.synthesis.images import CONTRASTS
from DISYRECore.training.slices import fit
from DISYRECore.training.tasks.anofpdm import walk_all

STRIDED, REFERENCE_EVALUATIONS = (25, 30, 50), 2399
LEVELS, GUIDANCES, STRIDE, MEDIAN = (100, 200, 300, 450), (0.0, 1.0, 1.5, 2.0, 3.0, 5.0), 25, 5
THRESHOLDS = np.round(np.arange(0.01, 0.70, 0.01), 2).tolist()
"""Of squared changes on images in [-1, 1], as published."""

Z_SCORE_THRESHOLDS = np.round(np.arange(0.02, 1.0, 0.02), 2).tolist()
BATCH, EVERY_COSINE = 32, 2.0
CHOSEN = {
    "anofpdm": {"guidance", "cosine_threshold", "largest_divergence"},
    "synomaly": {"step", "kernel", "threshold"},
}
"""Settings of each method that its validation chooses."""


# --- slices


@dataclass(frozen=True)
class Slices:
    """Slices of some scans, in the frame of training.

    Attributes:
        x: (N, Y, X) in [0, 1].
        mask, truth: (N, Y, X) bool.
        z_score: (N, Y, X), score of the z-score baseline, made of each whole scan.
        contrast: (N,) index into `CONTRASTS`.
    """

    x: Tensor
    mask: Tensor
    truth: Tensor
    z_score: Tensor
    contrast: Tensor

    @property
    def sick(self) -> Tensor:
        """Which of them have a lesion, (N,)."""
        return self.truth.flatten(1).any(1)

    def subset(self, chosen: Tensor) -> Slices:
        """Some of them."""
        return Slices(*(v[chosen] for v in vars(self).values()))

    def spread(self, count: int) -> Slices:
        """At most `count`, equally spaced from the largest lesion to the smallest or none."""
        order = self.truth.flatten(1).sum(1).argsort(descending=True, stable=True)
        return self.subset(order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)])


def read_slices(case: Case, model: Model, count: int) -> Slices:
    """`count` slices of a scan, equally spaced through the brain."""
    scan, truth, given = case.load()
    brain = prepare(scan, model.description.spacing_mm, given, case.contrast)
    on_grid = resample(Volume(truth.astype(np.float32), scan.affine), brain.image.grid)
    x, mask = brain.tensors()
    lesion = torch.from_numpy(np.ascontiguousarray(on_grid.voxels.T)) > 0.5
    seen = mask.flatten(1).any(1).nonzero()[:, 0]
    chosen = seen[((np.arange(count) + 0.5) * len(seen) / count).astype(int)] if count < len(seen) else seen
    parts = (v[chosen].float() for v in (x, mask, lesion & mask, z_score(None, x, mask).score))
    image, inside, sick, score = (fit(v, model.description.detection.settings["shape"]) for v in parts)
    contrast = torch.full((len(image),), CONTRASTS.index(brain.contrast))
    return Slices(image, inside > 0, sick > 0, score, contrast)


def read_all(folder: Path, model: Model, options: argparse.Namespace) -> Slices:
    """The slices of a dataset."""
    cases = read_dataset(folder, contrasts=options.contrasts).cases[: options.cases]
    parts = [vars(read_slices(case, model, options.slices)).values() for case in cases]
    return Slices(*(torch.cat(values) for values in zip(*parts, strict=True)))


# --- measures


@dataclass(frozen=True)
class Judged:
    """What a method made of slices (N, Y, X).

    Attributes:
        score: To rank pixels by.
        mixed, unhealthy: Bool, what it marks in either setup.
    """

    score: Tensor
    mixed: Tensor
    unhealthy: Tensor


def marked(score: Tensor, slices: Slices, threshold: float) -> Tensor:
    """What a score marks at a fixed threshold."""
    return without_specks(score >= threshold) & slices.mask


def mixed_dice(found: Tensor, truth: Tensor) -> float:
    """Mean Dice over slices (N, Y, X) as in `protocols.anofpdm`; 1 where both are empty."""
    both, sizes = (m.flatten(1).sum(1).double() for m in (found & truth, found.int() + truth.int()))
    return float(((2 * both + ANOFPDM_SMOOTHING) / (sizes + ANOFPDM_SMOOTHING)).mean())


def figures(judged: Judged, slices: Slices) -> dict[str, float]:
    """Dice, IoU and AUPRC of both setups."""
    ap, mixed, unhealthy = (_protocol(v, slices) for v in (judged.score, judged.mixed, judged.unhealthy))
    found = {name: value for name, value in mixed.items() if name.startswith("mixed")}
    found |= {name: value for name, value in unhealthy.items() if name.startswith("unhealthy")}
    return found | {name: value for name, value in ap.items() if name.endswith("ap")}


def _protocol(score: Tensor, slices: Slices) -> dict[str, float]:
    volumes = (v.permute(2, 1, 0).numpy() for v in (score.float(), slices.truth, slices.mask))
    with TemporaryDirectory() as folder:
        stored = cache_prediction(Path(folder) / "slices.npz", "slices", "all", np.eye(4), *volumes, threshold=0.5)
        return PROTOCOLS["anofpdm"]([stored])


def overall_ap(score: Tensor, slices: Slices) -> float:
    """Average precision over the brain pixels of all slices."""
    return average_precision(score[slices.mask].numpy(), slices.truth[slices.mask].numpy())


# --- baselines


@dataclass(frozen=True)
class Choice:
    """The outcome of a search.

    Attributes:
        settings: Level and guidance; nothing where there is none to choose.
        threshold: On the score.
        dice: Mixed Dice on the slices that were searched.
    """

    settings: tuple[float, ...]
    threshold: float
    dice: float


def search(
    candidates: Iterable[tuple[tuple[float, ...], Tensor]], slices: Slices, thresholds: Iterable[float]
) -> Choice:
    """The settings and the fixed threshold of the best mixed Dice; the first of equals.

    Args:
        candidates: Settings, and the score (N, Y, X) that they make of the slices.
        slices: With pixel labels.
        thresholds: To try.
    """
    best = Choice((), float("nan"), -1.0)
    for settings, score in candidates:
        for threshold in thresholds:
            dice = mixed_dice(marked(score, slices, threshold), slices.truth)
            if dice > best.dice:
                best = Choice(settings, threshold, dice)
    return best


def one_step(predict: Restore, x: Tensor, level: int, guidances: Sequence[float]) -> list[Tensor]:
    """Noise at one level and one guided estimate: slices (N, Y, X) in [-1, 1], restored under each guidance."""
    _, x_t, conditional, free = next(forward(predict, x, [level]))
    return [estimate(x_t, guided(conditional, free, w), level, LINEAR) for w in guidances]


def ddim(predict: Restore, x: Tensor, level: int, guidances: Sequence[float]) -> list[Tensor]:
    """Encoded without a condition up to a level and decoded towards healthy in strides, under each guidance."""
    steps = [*range(0, level, STRIDE), level]
    x_t = x
    for t, following in pairwise(steps):
        x_t = advance(x_t, estimate(x_t, predict(x_t, t, NULL)[0], t, LINEAR), t, following, LINEAR)
    return [_decode(predict, x_t, steps[::-1], w) for w in guidances]


def _decode(predict: Restore, x_t: Tensor, steps: list[int], guidance: float) -> Tensor:
    for t, following in pairwise(steps):
        x_0 = estimate(x_t, _guided(predict, x_t, t, guidance), t, LINEAR)
        x_t = advance(x_t, x_0, t, following, LINEAR)
    return estimate(x_t, _guided(predict, x_t, steps[-1], guidance), steps[-1], LINEAR)


def _guided(predict: Restore, x_t: Tensor, step: int, guidance: float) -> Tensor:
    return guided(predict(x_t, step, HEALTHY)[0], predict(x_t, step, NULL)[0], guidance)


BASELINES = {"one step": one_step, "DDIM": ddim}


def scores(
    name: str, predict: Restore, x: Tensor, levels: Sequence[int], guidances: Sequence[float]
) -> Iterator[tuple[tuple[float, ...], Tensor]]:
    """Squared change of slices in [-1, 1] after a median filter, for every level and guidance."""
    for level in levels:
        for guidance, restored in zip(guidances, BASELINES[name](predict, x, level, guidances), strict=True):
            yield (level, guidance), median_in_plane((x - restored).square(), MEDIAN)


def baseline(
    name: str, predict: Restore, validation: Slices, test: Slices, length: int = FORWARD_STEPS
) -> tuple[str, Judged]:
    """A baseline tuned on validation slices: what was chosen, and what it makes of the test slices.

    The network has not learnt the steps from `length` on.
    """
    levels = [level for level in LEVELS if level < length]
    tried = scores(name, predict, to_signed(validation.x), levels, GUIDANCES)
    choice = search(tried, validation, THRESHOLDS)
    level, guidance = choice.settings
    ((_, score),) = scores(name, predict, to_signed(test.x), [int(level)], [guidance])
    found = marked(score, test, choice.threshold)
    return f"{name}: t {level}, w {guidance:g}, threshold {choice.threshold:g}", Judged(score, found, found)


def at_threshold(label: str, score: Tensor, test: Slices, threshold: float) -> tuple[str, Judged]:
    """A score at a fixed threshold."""
    found = marked(score, test, threshold)
    return f"{label} {threshold:g}", Judged(score, found, found)


def empty(test: Slices) -> tuple[str, Judged]:
    """Nothing is found."""
    nothing = torch.zeros_like(test.mask)
    return "empty mask", Judged(nothing.float(), nothing, nothing)


# --- the methods


class Counted:
    """A network that keeps count of the slices it was asked about, call by call."""

    def __init__(self, predict: Restore) -> None:
        self.predict, self.sizes = predict, list[int]()

    def __call__(self, x: Tensor, *conditioning: int) -> tuple[Tensor, Tensor | None]:
        self.sizes.append(len(x))
        return self.predict(x, *conditioning)


def network_of(model: Model) -> Counted:
    """The network of a model, slices in batches."""
    return Counted(VolumeRestorer(model.network, BATCH))


def walk_of(predict: Restore, slices: Slices, model: Model, steps: int) -> Walk:
    """The forward path with the model's guidance."""
    settings = model.description.detection.settings
    steps_of_path, kind = path(steps, length_of(model)), settings.get("map", "mean")
    return walk_all(predict, to_signed(slices.x), steps_of_path, (settings["guidance"],), kind)[0]


def length_of(model: Model) -> int:
    """Steps of the model's whole forward path."""
    return int(model.description.detection.settings.get("length", FORWARD_STEPS))


def judge_walk(walk: Walk, slices: Slices, model: Model) -> Judged:
    """AnoFPDM's decision; in the unhealthy setup no slice is taken for healthy."""
    settings, score = model.description.detection.settings, median_in_plane(walk.map, MEDIAN)
    levels = quantile_levels(walk.divergence, settings["largest_divergence"])
    mixed, unhealthy = (
        (dynamic(walk, score, levels, cosine) >= THRESHOLD) & slices.mask
        for cosine in (settings["cosine_threshold"], EVERY_COSINE)
    )
    return Judged(score, mixed, unhealthy)


def judge_synomaly(predict: Restore, slices: Slices, model: Model) -> Judged:
    """Synomaly at its own threshold."""
    score = torch.zeros_like(slices.x)
    for where, settings in settings_by_contrast(model, slices):
        score[where] = synomaly(predict, slices.x[where], slices.mask[where], **settings).score
    found = without_specks(anomalous(score, model.description.detection.settings["threshold"]))
    return Judged(score, found, found)


def settings_by_contrast(model: Model, slices: Slices) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Which slices are of each contrast, (N,) bool, and Synomaly's settings for them, its score the residual."""
    for index in slices.contrast.unique().tolist():
        own = model.description.detection.by_contrast.get(CONTRASTS[index], {})
        yield slices.contrast == index, {**model.description.detection.settings, **own, "score": "residual"}


# --- tables


def setups(models: dict[str, Model], validation: Slices, test: Slices) -> str:
    """All methods in both setups."""
    predict, steps = (
        network_of(models["anofpdm"]),
        SPEC.evaluations(models["anofpdm"].description.detection.settings) // 2,
    )
    tuned = search([((), validation.z_score)], validation, Z_SCORE_THRESHOLDS).threshold
    rows = [empty(test)]
    rows.append(at_threshold("z-score: its own threshold", test.z_score, test, THRESHOLD))
    rows.append(at_threshold("z-score: threshold", test.z_score, test, tuned))
    for name in BASELINES:
        _say(f"baseline {name}")
        rows.append(baseline(name, predict, validation, test, length_of(models["anofpdm"])))
    _say("AnoFPDM and Synomaly")
    walk = walk_of(predict, test, models["anofpdm"], steps)
    rows.append((f"AnoFPDM, {steps} steps", judge_walk(walk, test, models["anofpdm"])))
    rows.append(("Synomaly", judge_synomaly(network_of(models["synomaly"]), test, models["synomaly"])))
    made = [(label, figures(judged, test)) for label, judged in rows]
    head = [f"{setup} {measure}" for setup in ("mixed", "unhealthy") for measure in ("Dice", "IoU", "AUPRC")]
    names = [f"{setup}_{measure}" for setup in ("mixed", "unhealthy") for measure in ("dice", "iou", "ap")]
    lines = [[label, *(f"{found.get(name, math.nan):.3f}" for name in names)] for label, found in made]
    return table(["method", *head], lines)


def strides(model: Model, slices: Slices) -> str:
    """Strided forward paths against the whole one."""
    rows, length = [], length_of(model)
    for steps in (*STRIDED, length):
        _say(f"forward path of {steps} steps")
        predict, start = network_of(model), time.perf_counter()
        walk = walk_of(predict, slices, model, steps)
        seconds = (time.perf_counter() - start) / len(slices.x)
        judged, calls = judge_walk(walk, slices, model), sum(predict.sizes) / len(slices.x)
        end = float((walk.step == length - 1).float().mean())
        label = f"{steps}, faithful" if steps == length else str(steps)
        rows.append([label, f"{overall_ap(judged.score, slices):.3f}", f"{mixed_dice(judged.mixed, slices.truth):.3f}"])
        rows[-1] += [f"{calls:.0f}", f"1/{REFERENCE_EVALUATIONS / calls:.0f}", f"{seconds:.2f}", f"{end:.2f}"]
    head = ["steps", "AP", "mixed Dice", "evaluations per slice", "of the reference's 2,399", "seconds per slice"]
    return f"On {len(slices.x)} slices:\n\n{table([*head, 'share with t_e at the end'], rows)}"


def stages(model: Model, slices: Slices) -> str:
    """How many stages Synomaly needs, on slices without and with a lesion."""
    rows, two = [], 1 + model.description.detection.settings.get("samples", 1)
    for kind, chosen in (("healthy", ~slices.sick), ("with a lesion", slices.sick)):
        count = int(chosen.sum())
        if count:
            predict, part = network_of(model), slices.subset(chosen)
            on = 0
            for where, settings in settings_by_contrast(model, part):
                before = len(predict.sizes)
                synomaly(predict, part.x[where], part.mask[where], **settings)
                on += sum(predict.sizes[before + two : before + two + 1])
            rows.append([kind, str(count), f"{sum(predict.sizes) / count:.2f}", f"{1 - on / count:.2f}"])
    return table(["slices", "number", "evaluations per slice", "share done after 2 stages"], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("validation", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--anofpdm", default="brain-anofpdm", help="id or folder of a model")
    parser.add_argument("--synomaly", default="brain-synomaly", help="id or folder of a model")
    parser.add_argument("--slices", type=int, default=8, help="of every case")
    parser.add_argument("--cases", type=int, help="of every set; all when not given")
    parser.add_argument("--faithful-slices", type=int, default=16, help="of all, for the whole forward path")
    parser.add_argument("--contrasts", nargs="+", help="all when not given")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    try:
        run(options)
    except DisyreError as error:
        parser.error(str(error))


def trained(model: str, method: str, device: torch.device) -> Model:
    """A model of a method, with the settings that its validation chose.

    Raises:
        DisyreError: It is of another method, or was never validated.
    """
    loaded = load_model(model, device)
    if loaded.description.method != method:
        raise DisyreError(f"The model {model} is of {loaded.description.method}; give one of {method}.")
    if not CHOSEN[method] <= loaded.description.detection.settings.keys():
        raise DisyreError(f"The model {model} has not been validated; train it with label maps for validation.")
    return loaded


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Reads the slices and prints the tables."""
    device = pick_device(options.device)
    models = {name: trained(getattr(options, name), name, device) for name in CHOSEN}
    validation, test = (read_all(folder, models["anofpdm"], options) for folder in (options.validation, options.test))
    for name, slices in (("validation", validation), ("test", test)):
        print(f"{name}: {len(slices.x)} slices, {int(slices.sick.sum())} with a lesion")
    print("\n" + setups(models, validation, test), flush=True)
    print("\n" + strides(models["anofpdm"], test.spread(options.faithful_slices)), flush=True)
    print("\n" + stages(models["synomaly"], test), flush=True)


if __name__ == "__main__":
    main()
