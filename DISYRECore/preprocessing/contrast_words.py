"""What a scan says of its contrast: file name, DICOM tags, BIDS names and side cars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DISYRECore.errors import DisyreError
from DISYRECore.io.dicom import OTHER_WORDS, choose_stack, is_dicom

_PREFIX, _WEIGHTED = r"(?:[23]d|ax|axi|sag|cor|tra|ir)?", r"(?:w|wi|weighted)?"
_SEQUENCE = r"(?:[23]d|ax|sag|cor|tra|fs|se|tse|fse|tfe|ffe|space|spc|mpr|mprage|vibe|blade|propeller|brain|head)?"
_AGENT = r"(?:c|ce|gd|gad|gado|km|post|postcontrast|contrast)"
_PATTERNS = {
    "T1": rf"\b{_PREFIX}t1{_WEIGHTED}(?:{_SEQUENCE}|{_AGENT}|flair|pre)\b|\bunit1\b"
    r"|\b(?:3d)?(?:mp ?rage|(?:ir ?)?(?:ef|f)?spgr|bravo|vibe)\b",
    "T2": rf"\b{_PREFIX}t2{_WEIGHTED}{_SEQUENCE}\b(?! ?\*| star\b)",
    "FLAIR": rf"\b{_PREFIX}(?:t2{_WEIGHTED})?flair{_SEQUENCE}\b|\bda(?:rk)? ?fl(?:uid)?\b",
    "PD": rf"\b{_PREFIX}pd{_WEIGHTED}{_SEQUENCE}\b|\bproton(?:density)?\b",
    "other": r"\bt2w? ?(?:\*|starw?\b)|\b(?:t[12]|pd) ?(?:map|rho)\b"
    rf"|\b(?:{OTHER_WORDS})\b",
}
_AGENT_WORDS = (
    r"\b(?:ce|gd|gad|gado\w*|km|contrast|postcontrast|postgad|enhanced)\b|\bt1\w* c\b|\bt1w?" + _AGENT + r"\b"
    r"|(?:^| )c ?\+|\+ ?c\b|\bpost\b(?! ?(?:op|surg|treat|rt|tx))"
)
_NO_AGENT_WORDS = (
    r"\bt1w?pre\b|\bpre(?:contrast|gad)?\b(?! ?(?:op|surg|treat|rt|tx))"
    r"|\b(?:without|wo|w o|no|non|native?|ohne) ?(?:iv )?(?:ce|gd|gad\w*|km|contrast)\b|\bunenhanced\b|\bc -"
)
_NOT_WORDS = re.compile(r"(?:^|(?<=_))(?:sub|ses|run|site|task|dir|rec)-[A-Za-z0-9]+")
_BIDS_SUFFIX = re.compile(r"^sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*_(?P<suffix>[A-Za-z0-9]+)$")

LONG_TR_MS, SPIN_ECHO_T1_TR_MS = 1800.0, 1000.0
LONG_TE_MS, SHORT_TE_MS = 60.0, 35.0
FLAIR_TI_MS, T1_TI_MS, T1_TI_TE_MS = 1500.0, (500.0, 1300.0), 40.0


@dataclass(frozen=True)
class ScanHeader:
    """What the headers of a scan say of its sequence.

    Attributes:
        origin: ``DICOM`` or ``JSON side car``.
        descriptions: Texts written by people, the most telling one first.
        agent: Contrast agent; empty where none is named.
        sequence: Value of the DICOM tag ScanningSequence, such as ``SE``, ``GR\\IR``.
        repetition_ms, echo_ms, inversion_ms: TR, TE and TI; None where they are not told.
    """

    origin: str
    descriptions: tuple[str, ...] = ()
    agent: str = ""
    sequence: str = ""
    repetition_ms: float | None = None
    echo_ms: float | None = None
    inversion_ms: float | None = None


@dataclass(frozen=True)
class _Vote:
    """Contrasts that a source allows, the likeliest first; none where it contradicts itself."""

    source: str
    allowed: tuple[str, ...]


def contrast_from_words(source: str, header: ScanHeader | None = None) -> tuple[str | None, str]:
    """Contrast of a scan by its name and header.

    Args:
        source: Path of the scan; only the last part counts. May be empty.
        header: See `read_header`.

    Returns:
        One of `contrast_image.CONTRASTS`, or None where nothing is said or the sources contradict each other; and who
        says it, or what contradicts what. T1 stands for T1 of which nobody says that a contrast agent was given.
    """
    votes = [vote for vote in (_name_vote(Path(source).name), *_header_votes(header)) if vote]
    if not votes:
        return None, "neither the file name nor a header names the contrast"
    allowed = [c for c in votes[0].allowed if all(c in vote.allowed for vote in votes)]
    sources = list(dict.fromkeys(vote.source for vote in votes))
    if allowed:
        agent = header is not None and header.agent and "T1C" in allowed
        return "T1C" if agent else allowed[0], " and ".join(sources)
    said = (f"{vote.source} says {vote.allowed[0] if vote.allowed else 'several contrasts'}" for vote in votes)
    return None, " but ".join(dict.fromkeys(said))


def _name_vote(name: str) -> _Vote | None:
    stem = re.sub(r"\.(nii(\.gz)?|nrrd|nhdr|mha|mhd)$", "", name, flags=re.IGNORECASE)
    bids = _BIDS_SUFFIX.match(stem)
    if bids and (vote := _text_vote("file name", bids["suffix"] + " ce" * ("_ce-" in stem))):
        return vote
    return _text_vote("file name", _NOT_WORDS.sub("", stem))


def _text_vote(source: str, text: str) -> _Vote | None:
    words = _words(text)
    found = {contrast for contrast, pattern in _PATTERNS.items() if re.search(pattern, words)}
    if re.search(r"\bt1\w* ?flair", words):
        found.discard("FLAIR")
    if "FLAIR" in found or re.search(r"\b(?:t[12]|pd) ?(?:map|rho)\b", words):
        found -= {"T2"} if "FLAIR" in found else {"T1", "T2", "PD"}
    if not found:
        return None
    return _Vote(source, _with_agent(words) if found == {"T1"} else tuple(found) if len(found) == 1 else ())


def _words(text: str) -> str:
    """Lower-case words with one space between; ``inplaneT2`` is two words, ``patient1`` and ``t10`` are one."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(re.findall(r"[a-z0-9]+|[+*]|(?<=\bc)-(?!\w)", apart.lower().replace("_", " ")))


def _with_agent(words: str) -> tuple[str, ...]:
    if re.search(_NO_AGENT_WORDS, words):
        return ("T1",)
    return ("T1C",) if re.search(_AGENT_WORDS, words) else ("T1", "T1C")


def _header_votes(header: ScanHeader | None) -> list[_Vote | None]:
    if header is None:
        return []
    texts = (_text_vote(header.origin, text) for text in header.descriptions)
    return [next(filter(None, texts), None), _times_vote(header)]


def _times_vote(header: ScanHeader) -> _Vote | None:
    """The contrast that TR, TE and TI make; gradient echoes without an inversion may be anything."""
    tr, te, ti = header.repetition_ms, header.echo_ms, header.inversion_ms or 0.0
    allowed: tuple[str, ...] = ()
    if tr is None or te is None:
        return None
    if ti >= FLAIR_TI_MS and te >= LONG_TE_MS:
        allowed = ("FLAIR",)
    elif T1_TI_MS[0] <= ti <= T1_TI_MS[1] and te <= T1_TI_TE_MS:
        allowed = ("T1", "T1C")
    elif "SE" in header.sequence and not ti and "EP" not in header.sequence:
        allowed = _spin_echo_contrasts(tr, te)
    return _Vote(header.origin, allowed) if allowed else None


def _spin_echo_contrasts(tr: float, te: float) -> tuple[str, ...]:
    if tr <= SPIN_ECHO_T1_TR_MS and te <= SHORT_TE_MS:
        return "T1", "T1C"
    if tr >= LONG_TR_MS and te >= LONG_TE_MS:
        return "T2", "FLAIR"
    return ("PD",) if tr >= LONG_TR_MS and te <= SHORT_TE_MS else ()


def read_header(source: str) -> ScanHeader | None:
    """What lies beside the voxels of a scan: DICOM tags of a folder's largest series, or a BIDS side car.

    Args:
        source: Path of an image file or a DICOM folder.

    Returns:
        None where there is no header, or one that cannot be read.
    """
    if not source:
        return None
    path = Path(source)
    if path.is_dir() or is_dicom(path):
        return _dicom_header(path)
    stem = re.sub(r"(\.nii)?\.\w+$", "", path.name)
    side_car = path.with_name(f"{stem}.json")
    try:
        values = json.loads(side_car.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _side_car_header(values) if isinstance(values, dict) else None


def _side_car_header(values: Mapping[str, Any]) -> ScanHeader:
    def text(name: str) -> str:
        value = values.get(name, "")
        return "\\".join(map(str, value)) if isinstance(value, list) else str(value)

    def milliseconds(name: str) -> float | None:
        seconds = _number(values.get(name))
        return None if seconds is None else 1000 * seconds

    return ScanHeader(
        "JSON side car",
        (text("SeriesDescription"), text("ProtocolName")),
        _agent_name(text("ContrastBolusIngredient") or text("ContrastBolusAgent")),
        text("ScanningSequence"),
        milliseconds("RepetitionTime"),
        milliseconds("EchoTime"),
        milliseconds("InversionTime"),
    )


def _dicom_header(folder: Path) -> ScanHeader | None:
    try:
        frame = choose_stack(folder)[0].frames[0]
    except DisyreError:
        return None
    tags = frame.tags
    return ScanHeader(
        "DICOM",
        (_text(tags.get("SeriesDescription")), _text(tags.get("ProtocolName"))),
        _agent_name(_text(tags.get("ContrastBolusAgent"))),
        _text(tags.get("ScanningSequence")),
        _number(tags.get("RepetitionTime")),
        frame.echo_ms,
        _number(tags.get("InversionTime")),
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, str) else "\\".join(map(str, value))


def _agent_name(text: str) -> str:
    return "" if text.strip().lower() in ("", "no", "none", "n", "n/a", "0") else text


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
