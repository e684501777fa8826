"""The command line: ``disyre detect | skull-strip | train | models | synthesize | evaluate | calibrate | tune``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_exists
from DISYRECore.methods import method_names
from DISYRECore.preprocessing.modalities import modality_names
from DISYRECore.version import __version__

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 on success, 2 for anything the user can mend, 1 otherwise."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except DisyreError as error:
        return _complain(options, str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain(options, "Stopped.", 130)
    except MemoryError:
        return _complain(options, "Not enough memory for this scan; close other programs or use a larger machine.", 1)
    except Exception as error:
        return _complain(options, f"Internal error: {type(error).__name__}: {error} (--debug shows where).", 1)


def _complain(options: argparse.Namespace, sentence: str, code: int) -> int:
    if options.debug:
        traceback.print_exc()
    print(f"disyre: {sentence}".replace("\n", " "), file=sys.stderr)
    return code


class _Renamed(argparse.Action):
    """An option or value of the version before: it still works, and says what it is called now."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        _tell_renamed(str(option), str(self.metavar))
        setattr(namespace, self.dest, values)


def _tell_renamed(old: str, new: str) -> None:
    print(f"disyre: {old} is called {new} now.", file=sys.stderr)


def _method(name: str) -> str:
    if name == "ruler":
        _tell_renamed("The method ruler", "z-score")
        return "z-score"
    return name


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


def _skull_strip(options: argparse.Namespace) -> int:
    if options.command == "strip":
        _tell_renamed("The command strip", "skull-strip")
    from DISYRECore.apps.skull_strip import skull_strip

    brain = Path(options.brain) if options.brain else None
    found = skull_strip(Path(options.input), Path(options.output), brain, options.rim)
    print(f"{found.how}: {found.volume_ml:.0f} mL ({found.because})")
    for flag in found.flags:
        print(f"disyre: {flag}", file=sys.stderr)
    return 0


def _train(options: argparse.Namespace) -> int:
    from DISYRECore.training import train
    from DISYRECore.training.config import read_config

    train(read_config(Path(options.config)), Path(options.labelmaps), Path(options.output), options.device)
    return 0


def _models(options: argparse.Namespace) -> int:
    from DISYRECore.models.description import list_models

    for description in list_models():
        contrasts = ", ".join(description.contrasts)
        print(f"{description.id}\t{description.method}\t{contrasts}\t{description.title}")
    return 0


def _synthesize(options: argparse.Namespace) -> int:
    maps = sorted(p for pattern in options.maps for p in Path(options.labelmaps).glob(pattern))
    if options.patients:
        return _synthesize_patients(options, maps)
    if options.lesion_masks:
        raise DisyreError("--lesion-masks goes with --patients; add it or leave the masks out.")
    from DISYRECore.synthesis.lesions import KINDS
    from DISYRECore.synthesis.test_set import write_test_set

    kinds = ("none",) if options.healthy else tuple(options.kinds or KINDS)
    contrasts = tuple(options.contrasts or ("T1", "T2", "FLAIR"))
    write_test_set(Path(options.output), maps, options.count, options.seed, contrasts, kinds, options.head)
    return 0


def _synthesize_patients(options: argparse.Namespace, maps: list[Path]) -> int:
    if options.healthy or options.contrasts:
        raise DisyreError("Patients are ill and scanned in every contrast; leave --healthy and --contrasts out.")
    from DISYRECore.synthesis.pathology import KINDS
    from DISYRECore.synthesis.patients import write_patients

    masks = Path(options.lesion_masks) if options.lesion_masks else None
    kinds = tuple(options.kinds or KINDS)
    write_patients(Path(options.output), maps, options.count, options.seed, kinds, masks, options.head)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from DISYRECore.evaluation.evaluate import evaluate

    places = Path(options.dataset), options.model, options.methods, Path(options.report)
    print(evaluate(*places, options.device, options.protocol, options.site_calibration))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from DISYRECore.detection.detector import Detector
    from DISYRECore.evaluation.calibrate import calibrate_site

    detector = Detector(options.model, options.method, options.device)
    told = calibrate_site(detector, Path(options.healthy), options.site, mask=options.mask, contrast=options.contrast)
    print(told)
    return 0


def _tune(options: argparse.Namespace) -> int:
    from DISYRECore.evaluation.tune import tune

    patients = [Path(folder) for folder in options.patients]
    print(tune(options.model, patients, options.healthy, Path(options.cache), options.device))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="disyre",
        description="Finds anomalies in brain MRI by restoring it towards healthy anatomy. "
        "Research use only; not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"disyre {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (
        _add_detect,
        _add_skull_strip,
        _add_train,
        _add_models,
        _add_synthesize,
        _add_evaluate,
        _add_calibrate,
        _add_tune,
    ):
        add(commands)
    for command in set(commands.choices.values()):
        command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def _add_detect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("detect", help="find anomalies in a scan or a folder of scans")
    command.set_defaults(run=_detect)
    inputs = "NIfTI, NRRD or MHA files, DICOM folders, or folders of scans"
    command.add_argument("input", nargs="+", metavar="INPUT", help=inputs)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="where the results go")
    study = "take the scans of a patient together: the files named, a folder, or each subject of a dataset"
    command.add_argument("--study", action="store_true", help=study)
    command.add_argument("--model", metavar="ID", help="id or folder of a model; default: the one for the method")
    methods = f"{_listed(method_names())}; default: the model's own"
    command.add_argument("--method", type=_method, metavar="NAME", help=methods)
    command.add_argument("--score", metavar="NAME", help="residual, region or dynamic; default: the model's own")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    command.add_argument("--batch", type=int, default=16, help="slices at a time (default 16)")
    rarity = "findings per healthy scan that are accepted (default 0.5); less shows only rarer ones"
    command.add_argument("--false-findings", type=_above_zero, default=0.5, metavar="N", help=rarity)
    border = "display score above which findings are drawn, 0 to 1; default: the model's own"
    command.add_argument("--border", type=_share, metavar="SCORE", help=border)
    command.add_argument(
        "--threshold", dest="border", type=_share, action=_Renamed, metavar="--border", help=argparse.SUPPRESS
    )
    command.add_argument("--contrast", choices=("T1", "T2", "FLAIR"), help="guessed when not given")
    command.add_argument(
        "--mask", metavar="FILE", help="mask of the brain (found when not given), the liver or a vessel"
    )
    modalities = f"{_listed(modality_names())}; default: the model's own"
    command.add_argument("--modality", metavar="NAME", help=modalities)
    command.add_argument("--profile", dest="modality", action=_Renamed, metavar="--modality", help=argparse.SUPPRESS)
    _add_site_calibration(command)


def _add_site_calibration(command: argparse.ArgumentParser) -> None:
    calibration = "use the calibration of this site, see 'disyre calibrate'"
    command.add_argument("--site-calibration", metavar="NAME", help=calibration)
    command.add_argument(
        "--site", dest="site_calibration", action=_Renamed, metavar="--site-calibration", help=argparse.SUPPRESS
    )


def _add_skull_strip(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "skull-strip", aliases=["strip"], help="find the brain in a scan of a head of any contrast"
    )
    command.set_defaults(run=_skull_strip)
    command.add_argument("input", metavar="INPUT", help="NIfTI, NRRD or MHA file, or DICOM folder")
    command.add_argument("-o", "--output", required=True, metavar="MASK", help="brain mask, .nii.gz or .nrrd")
    command.add_argument("--brain", metavar="FILE", help="also write the scan without what lies outside the brain")
    rim = "how far outside the brain's surface the mask ends, -5 to 8 (default 3)"
    command.add_argument("--rim", type=_rim, default=3.0, metavar="MM", help=rim)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("train", help="train a model from a config; resumes where it was stopped")
    command.set_defaults(run=_train)
    command.add_argument("config", metavar="CONFIG", help="YAML file, see Resources/Configs")
    maps = "folder of label maps, or of scans where the config's source is images"
    command.add_argument("--labelmaps", required=True, metavar="DIR", help=maps)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="checkpoint, log and model go here")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("models", help="list the models that are installed")
    command.set_defaults(run=_models)


def _add_synthesize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("synthesize", help="write synthetic scans with their truth")
    command.set_defaults(run=_synthesize)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="where the cases go")
    command.add_argument("--labelmaps", required=True, metavar="DIR", help="folder of label maps")
    command.add_argument("--maps", nargs="+", default=["*.nii.gz"], metavar="PATTERN", help="which of them to use")
    command.add_argument("--count", type=_positive, default=12, help="number of cases (default 12)")
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same cases")
    command.add_argument("--contrasts", nargs="+", help="T1, T2, FLAIR (default), free")
    kinds = (
        "mass, infarct, plaques, none; of patients: "
        "glioma, metastases, infarct, ms, leukoaraiosis, haemorrhage, resection; default: all in turn"
    )
    command.add_argument("--kinds", nargs="+", metavar="KIND", help=kinds)
    command.add_argument("--patients", action="store_true", help="patients in T1, T2 and FLAIR instead of single scans")
    masks = "real lesion masks in MNI space that give infarcts and plaques of patients their shape"
    command.add_argument("--lesion-masks", metavar="DIR", help=masks)
    command.add_argument("--head", action="store_true", help="whole heads instead of brains")
    command.add_argument("--healthy", action="store_true", help="healthy scans only")


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("evaluate", help="measure methods on a dataset with known truth")
    command.set_defaults(run=_evaluate)
    command.add_argument(
        "dataset", metavar="DATASET", help="folder as synthesize writes it, or BraTS, ATLAS, MSLUB, WMH, IXI, BIDS"
    )
    command.add_argument("--report", required=True, metavar="DIR", help="for metrics.json, table and report.html")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of a model")
    methods = "NAME or NAME@MODEL, beside the z-score baseline (default disyre-v2)"
    command.add_argument("--methods", nargs="+", default=["disyre-v2"], metavar="NAME", help=methods)
    protocol = "exact (default); disyre, anofpdm or upd to measure a published protocol beside it"
    command.add_argument("--protocol", default="exact", metavar="NAME", help=protocol)
    _add_site_calibration(command)
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("calibrate", help="measure what is usual at a site on its own healthy scans")
    command.set_defaults(run=_calibrate)
    command.add_argument("healthy", metavar="HEALTHY_FOLDER", help="healthy scans of the site, five or more")
    command.add_argument("--site", required=True, metavar="NAME", help="name of the site calibration")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of a model")
    command.add_argument("--method", metavar="NAME", help="the model's own when not given")
    command.add_argument("--mask", metavar="FOLDER", help="brain masks named as the scans; found when not given")
    command.add_argument("--contrast", choices=("T1", "T2", "FLAIR"), help="guessed when not given")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _add_tune(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("tune", help="choose how a model is used, on development patients and healthy scans")
    command.set_defaults(run=_tune)
    patients = "folders of PATIENT/{T1,T2,FLAIR,mask}.nii.gz"
    command.add_argument("patients", nargs="+", metavar="FOLDER", help=patients)
    healthy = "healthy scans, such as T1='healthy/*.nii.gz'; without, what is healthy of the patients stands in"
    command.add_argument("--healthy", nargs="+", default=[], metavar="CONTRAST=PATTERN", help=healthy)
    command.add_argument("--cache", required=True, metavar="DIR", help="what the network said of each scan goes here")
    command.add_argument("--model", default="brain-restoration", metavar="ID", help="id or folder of a model")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError("must lie above 0")
    return value


def _rim(text: str) -> float:
    value = float(text)
    if not -5 <= value <= 8:
        raise argparse.ArgumentTypeError("must lie between -5 and 8")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
