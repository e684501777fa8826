"""``disyre synthesize``: writes synthetic scans."""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore.apps.arguments import Commands, positive
from DISYRECore.errors import DisyreError


def add(commands: Commands) -> None:
    """Adds the command to a parser."""
    command = commands.add_parser("synthesize", help="write synthetic scans with their truth")
    command.set_defaults(run=_synthesize)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="where the cases go")
    command.add_argument("--labelmaps", required=True, metavar="DIR", help="folder of label maps")
    command.add_argument("--maps", nargs="+", default=["*.nii.gz"], metavar="PATTERN", help="which of them to use")
    command.add_argument("--count", type=positive, default=12, help="number of cases (default 12)")
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
