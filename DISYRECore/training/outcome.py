"""What a run has come to: measured on what it never saw, and written into the model and its card.

Average precision on synthetic anomalies in held-out scans stands beside that of the start model and of the z-score
baseline, on draws that chose no weights. Healthy scans that were kept for it tell how rare a finding is. What cannot be
chosen without patients, the border and the weights of the score, stays as the start model has it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.calibrate import calibrate_contrasts, false_findings_elsewhere
from DISYRECore.io.files import write_text
from DISYRECore.models.description import DESCRIPTION, HELPERS, ModelDescription, read_description
from DISYRECore.models.device import count_parameters
from DISYRECore.models.store import load_model
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.preprocessing.prepare import PreparedBrain
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.events import SAMPLE, Emit
from DISYRECore.training.prepared import PreparedScan
from DISYRECore.training.slices import sources
from DISYRECore.training.tasks.base.sources import prepare_scans
from DISYRECore.training.trainer import Trainer

CARD, EXAMPLE = "README.md", "example.png"
FIGURES = {"dice": "Dice coefficient", "removed": "share of the corruption removed", "accuracy": "accuracy"}
COMPARISON_SEED = 20_000_003
"""Of the synthetic anomalies that models are compared on; validation, which chooses weights, has another."""


@dataclass(frozen=True)
class HealthyFigures:
    """What the model finds in held-out healthy scans of one contrast.

    Attributes:
        scans: Their number.
        findings: Known from them.
        false_findings: Per healthy scan, where the others say that there are `DEFAULT_FALSE_FINDINGS`; None for one.
        interval: 95 % bootstrap over the scans.
        warnings: Sentences for whoever uses the model.
    """

    scans: int
    findings: HealthyFindings
    false_findings: float | None
    interval: tuple[float, float] | None
    warnings: tuple[str, ...]


def conclude(run: Trainer, emit: Emit) -> None:
    """Measures the model of a run that has ended, and writes what was found into its folder.

    Args:
        run: In its first process.
        emit: Takes the events.

    Raises:
        DisyreError: Scans or model that cannot be used any more, or a folder that cannot be written to.
    """
    folder = run.out / run.config.name
    comparison = compare(run)
    description, healthy = read_description(folder), dict[str, HealthyFigures]()
    if run.config.images > 0 and description.method not in HELPERS:
        healthy = find_healthy(Detector(str(folder), device=str(run.device)), run.config, run.data, emit)
    known = {contrast: asdict(one.findings) for contrast, one in healthy.items()}
    about = {"start": run.config.start, "processor_s": round(run.state.progress.processor_s), "comparison": comparison}
    usage = replace(description.detection, healthy=known)
    description = replace(description, detection=usage, training={**description.training, **about})
    write_text(description.to_json(), folder / DESCRIPTION)
    picture = run.out / SAMPLE if (run.out / SAMPLE).is_file() else None
    if picture is not None:
        shutil.copyfile(picture, folder / EXAMPLE)
    write_text(card(description, count_parameters(run.task.network()), healthy, picture is not None), folder / CARD)
    told = {name: {**asdict(one), "findings": None} for name, one in healthy.items()}
    emit("outcome", comparison=comparison, healthy=told, card=str(folder / CARD))


def compare(run: Trainer) -> dict[str, Any]:
    """The figure that judges the task: of the ``model``, of the ``start`` model if any, of the ``z-score`` if it is AP.

    Nothing where there is no held-out data. ``figure`` names it.
    """
    task, config = run.task, run.config

    def scores(name: str) -> dict[str, float]:
        return task.validate(load_model(name, run.device).network, COMPARISON_SEED)

    own = scores(str(run.out / config.name))
    figure = next((name for name in run.spec.judged_by if name in own), None)
    if figure is None:
        return {}
    figures: dict[str, Any] = {"figure": figure, "model": own[figure]}
    if config.start:
        figures["start"] = scores(config.start)[figure]
    if figure.startswith("ap") and (baseline := task.baseline(COMPARISON_SEED)) is not None:
        figures["z-score"] = baseline
    return figures


def find_healthy(
    detector: Detector, config: TrainingConfig[Any], data: TrainingData, emit: Emit
) -> dict[str, HealthyFigures]:
    """What the model finds in the scans that were kept for this, by contrast; of validation where there are none."""
    parts = prepare_scans(config, data)
    scans = parts.get("calibration") or parts["validation"]
    found = calibrate_contrasts(detector, _brains(scans, config, data, emit))
    return {contrast: _figures(one.findings, by_scan, one.warnings) for contrast, (one, by_scan) in found.items()}


def _figures(findings: HealthyFindings, by_scan: Sequence[Any], warnings: tuple[str, ...]) -> HealthyFigures:
    if len(by_scan) < 2:
        return HealthyFigures(len(by_scan), findings, None, None, warnings)
    return HealthyFigures(len(by_scan), findings, *false_findings_elsewhere(findings, by_scan), warnings)


def _brains(
    scans: Sequence[PreparedScan], config: TrainingConfig[Any], data: TrainingData, emit: Emit
) -> Iterator[PreparedBrain]:
    """The scans prepared once more, as detection does; one that cannot be read any more is left out with a warning."""
    modality = find_modality(config.modality)
    for number, scan in enumerate(scans, start=1):
        try:
            assert data.images is not None
            (source,) = sources(data.images, [scan.scan], "synthetic")
            volume = modality.read(scan.scan)
            mask = None if source.mask is None else modality.read_mask(source.mask, volume.grid)
            yield modality.prepare(volume, config.spacing_mm, mask, scan.contrast)
        except DisyreError as error:
            print(f"disyre: healthy scan {number} is left out: {error}", file=sys.stderr)
            emit("warning", message=f"Healthy scan {number} is left out: {error}")
        emit("calibration", scan=number, scans=len(scans))


def card(
    description: ModelDescription, parameters: int, healthy: Mapping[str, HealthyFigures], has_picture: bool
) -> str:
    """The model's card in Markdown; nothing in it names a scan."""
    d = description
    start = d.training.get("start") or "random weights"
    rows = {
        "method": f"`{d.method}`",
        "network": f"{d.network['kind']}, {parameters / 1e6:.2g} million parameters, slices at {d.spacing_mm:g} mm",
        "contrasts": ", ".join(d.contrasts),
        "training data": d.training.get("data") or "not stated",
        "licence": d.training.get("licence") or "not stated",
        "started from": start,
        "training": f"{d.training['steps']} steps of {d.training['batch']} samples, seed {d.training['seed']}, "
        f"{d.training['processor_s'] / 3600:.1f} processor hours",
    }
    lines = [f"# Model card: {d.id}, version {d.version}", "", f"{d.title or d.id}. Research use only; not a medical"]
    lines[-1] += " device."
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
    lines += ["## Figures", "", *_comparison(d.training["comparison"]), *_healthy(healthy)]
    lines += ["## What is not known", "", _unknown(d, healthy), ""]
    picture = [f"![Held-out slices: corrupted, restored, as they were]({EXAMPLE})", ""] if has_picture else []
    return "\n".join(lines + picture)


def _comparison(figures: Mapping[str, Any]) -> list[str]:
    if not figures:
        return ["Nothing was held out, so nothing was measured on synthetic anomalies.", ""]
    names = {"model": "this model", "start": "the model it was started from", "z-score": "z-score baseline"}
    rows = [f"| {names[name]} | {figures[name]:.3f} |" for name in names if name in figures]
    what = FIGURES.get(figures["figure"], "average precision")
    return [f"| held-out slices with synthetic anomalies | {what} |", "|---|---|", *rows, ""]


def _healthy(healthy: Mapping[str, HealthyFigures]) -> list[str]:
    if not healthy:
        return ["No healthy scans were kept for calibration: how rare a finding is, is not known.", ""]
    head = f"| healthy scans held out | number | evidence of {DEFAULT_FALSE_FINDINGS:g} a scan | false findings |"
    rows = [head, "|---|---|---|---|"]
    for contrast, one in healthy.items():
        needed = one.findings.needed(DEFAULT_FALSE_FINDINGS)
        rate = "not known from one scan"
        if one.false_findings is not None and one.interval is not None:
            low, high = one.interval
            rate = f"{one.false_findings:.2f} a scan (95 % {low:.2f} to {high:.2f}), each scan judged by the others"
        rows.append(f"| {contrast} | {one.scans} | {needed:.3g} | {rate} |")
    warnings = [f"* {contrast}: {text}" for contrast, one in healthy.items() for text in one.warnings]
    return [*rows, "", *warnings, *([""] if warnings else [])]


def _unknown(description: ModelDescription, healthy: Mapping[str, HealthyFigures]) -> str:
    start = description.training.get("start")
    kept = f" The border of findings and the weights of the score are those of `{start}`." if start else ""
    missing = [contrast for contrast in description.contrasts if contrast not in healthy]
    rare = f" How rare a finding is, is not known for {', '.join(missing)}." if healthy and missing else ""
    return f"No patient was seen: how many lesions of patients it finds was not measured.{kept}{rare}"
