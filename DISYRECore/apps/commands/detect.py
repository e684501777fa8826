"""``disyre detect``: finds anomalies in scans, cohorts and studies."""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore.apps.arguments import Commands, Renamed, above_zero, add_site_calibration, listed, method, share
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_exists
from DISYRECore.methods import method_names
from DISYRECore.preprocessing.modalities import modality_names


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("detect", help="find anomalies in a scan or a folder of scans")
    command.set_defaults(run=_detect)
    inputs = "NIfTI, NRRD or MHA files, DICOM folders, or folders of scans"
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


def _detect(options: argparse.Namespace) -> int:
    for path in options.input:
        check_exists(Path(path))
    from DISYRECore.apps.cohort import detect_all, detect_studies
    from DISYRECore.detection.detector import Detector

    chosen = options.model, options.method, options.device, options.batch, options.score
    detector = Detector(*chosen, options.site_calibration, options.modality)
    settings = {"border": options.border, "false_findings": options.false_findings}
    if options.study:
        if options.mask or options.contrast:
            raise DisyreError("A study finds masks and contrasts by itself; leave --mask and --contrast out.")
        return detect_studies(detector, [Path(path) for path in options.input], Path(options.output), **settings)
    scans = [scan for path in options.input for scan in detector.modality.find(path)]
    if options.mask and len(scans) > 1:
        raise DisyreError("--mask goes with one scan, but INPUT holds several; run them one by one.")
    settings |= {"mask": options.mask, "contrast": options.contrast}
    return detect_all(detector, scans, Path(options.output), single=len(scans) == 1, **settings)
