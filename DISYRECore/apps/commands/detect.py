"""``disyre detect``: finds anomalies in scans, cohorts and studies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from DISYRECore.apps.arguments import Commands, Renamed, above_zero, add_site_calibration, listed, method, share
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_exists, image_suffix
from DISYRECore.methods import method_names
from DISYRECore.preprocessing.modalities import modality_names

if TYPE_CHECKING:
    from DISYRECore.apps.cases import Case
    from DISYRECore.apps.cohort import Compute


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("detect", help="find anomalies in a scan or a folder of scans")
    command.set_defaults(run=_detect)
    inputs = (
        "NIfTI, NRRD or MHA files, DICOM folders, folders of scans, a BIDS dataset, or a CSV table with the column "
        "scan and, if wanted, case, mask and contrast"
    )
    command.add_argument("input", nargs="+", metavar="INPUT", help=inputs)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="where the results go")
    study = "take the scans of a patient together: the files named, a folder, or each subject of a dataset"
    command.add_argument("--study", action="store_true", help=study)
    command.add_argument("--model", metavar="ID", help="id or folder of a model; default: the one for the method")
    methods = f"{listed(method_names())}; default: the model's own"
    command.add_argument("--method", type=method, metavar="NAME", help=methods)
    command.add_argument("--score", metavar="NAME", help="residual, region or dynamic; default: the model's own")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    command.add_argument("--batch", type=int, default=16, help="slices at a time (default 16)")
    rarity = "findings per healthy scan that are accepted (default 0.5); less shows only rarer ones"
    command.add_argument("--false-findings", type=above_zero, default=0.5, metavar="N", help=rarity)
    border = "display score above which findings are drawn, 0 to 1; default: the model's own"
    command.add_argument("--border", type=share, metavar="SCORE", help=border)
    command.add_argument(
        "--threshold", dest="border", type=share, action=Renamed, metavar="--border", help=argparse.SUPPRESS
    )
    command.add_argument("--contrast", choices=("T1", "T2", "FLAIR"), help="guessed when not given")
    command.add_argument(
        "--mask", metavar="FILE", help="mask of the brain (found when not given), the liver or a vessel"
    )
    modalities = f"{listed(modality_names())}; default: the model's own"
    command.add_argument("--modality", metavar="NAME", help=modalities)
    command.add_argument("--profile", dest="modality", action=Renamed, metavar="--modality", help=argparse.SUPPRESS)
    add_site_calibration(command)
    dicom = "write findings, score and report as DICOM too, as new series of the study; INPUT is DICOM"
    command.add_argument("--dicom", action="store_true", help=dicom)
    scheduler = "send the cases to the Dask cluster with this scheduler, such as tcp://HOST:8786"
    command.add_argument("--scheduler", metavar="ADDRESS", help=scheduler)
    bids = "also write the results of a BIDS dataset as a BIDS derivative dataset"
    command.add_argument("--bids", metavar="DIR", help=bids)


def _detect(options: argparse.Namespace) -> int:
    for path in options.input:
        check_exists(Path(path))
    from DISYRECore.apps.bids import check_bids, write_derivatives
    from DISYRECore.apps.cases import find_cases
    from DISYRECore.apps.cohort import Recipe, run_cohort, run_one

    if options.study and (options.mask or options.contrast):
        raise DisyreError("A study finds masks and contrasts by itself; leave --mask and --contrast out.")
    compute = _cluster(options.scheduler)
    chosen = options.model, options.method, options.device, options.batch, options.score
    more = options.site_calibration, options.modality, options.study, options.border, options.false_findings
    recipe, output = Recipe(*chosen, *more, options.dicom), Path(options.output)
    found = find_cases([Path(path) for path in options.input], recipe.detector.modality.find, output, options.study)
    if options.mask and not found.is_single:
        raise DisyreError("--mask goes with one scan, but INPUT holds several; run them one by one.")
    cases = [_told(case, options) for case in found.cases]
    if options.dicom:
        _check_dicom([case.scans[0] for case in cases])
    if found.label_maps:
        print(f"disyre: {_left_out(found.label_maps)}", file=sys.stderr)
    if options.bids:
        check_bids(cases)
    if found.is_single and compute is None:
        run_one(cases[0], recipe, output)
        code = 0
    else:
        code = run_cohort(cases, recipe, output, compute)
    if options.bids:
        write_derivatives(cases, output, Path(options.bids))
    return code


def _check_dicom(scans: Sequence[Path]) -> None:
    """Refuses, before any computing, what DICOM results cannot be made of."""
    import_module("DISYRECore.reports.dicom")
    for scan in scans:
        if scan.is_file() and image_suffix(scan):
            raise DisyreError(
                f"{scan.name} is no DICOM series, to which DICOM results could belong; leave --dicom out."
            )


def _cluster(address: str | None) -> Compute | None:
    if address is None:
        return None
    from DISYRECore.apps.cluster import compute_on

    return compute_on(address)


def _told(case: Case, options: argparse.Namespace) -> Case:
    """A case with what the user says of it."""
    mask = Path(options.mask) if options.mask else case.mask
    return replace(case, mask=mask, contrast=case.contrast or options.contrast)


def _left_out(label_maps: Sequence[Path]) -> str:
    some = ", ".join(path.name for path in label_maps[:3]) + (" and others" if len(label_maps) > 3 else "")
    return f"{len(label_maps)} files are called like masks and were left out: {some}."
