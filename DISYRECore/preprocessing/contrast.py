"""The contrast of a brain scan: what the scan says of itself and what its tissues look like, together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.preprocessing.contrast_image import CONTRASTS, contrast_from_image
from DISYRECore.preprocessing.contrast_words import contrast_from_words, read_header

SURE = 0.9
"""Below this probability the user is asked."""

READ_AS = {"T1": "T1", "T1C": "T1", "T2": "T2", "FLAIR": "FLAIR"}
"""What a network for T1, T2 and FLAIR takes each contrast for; the others are refused."""

RIGHT, WRONG = 0.97, 0.005
"""How often words name the contrast that it is, and any other of another look."""

AGENT_UNNAMED, AGENT_INVENTED = 0.2, 0.003
"""How often T1 with contrast agent is called T1, and the reverse."""

LEAST_BY_IMAGE = {"T1": 0.002, "T2": 0.002, "FLAIR": 0.002, "T1C": 0.05, "PD": 0.02, "other": 0.02}
"""No image excludes a contrast more than this; those below the line are learnt from few looks of many."""


@dataclass(frozen=True)
class ContrastEstimate:
    """The contrast of a scan.

    Attributes:
        contrast: One of `CONTRASTS`.
        probability: That it is this one.
        source: What told it: ``file name``, ``DICOM``, ``JSON side car``, ``image``, joined by "and".
        doubt: What the reader must know where the contrast is not sure, a sentence; else empty.
    """

    contrast: str
    probability: float
    source: str
    doubt: str = ""

    @property
    def is_sure(self) -> bool:
        """Whether the user need not be asked."""
        return self.probability >= SURE


def estimate_contrast(
    image: np.ndarray, mask: np.ndarray, spacing_mm: float, words: tuple[str | None, str]
) -> ContrastEstimate:
    """The contrast of a brain scan by its words and its image.

    Args:
        image: (X, Y, Z), axes closest to R, A, S, isotropic, in linear intensities from 0 on, see `features`.
        mask: Brain mask on the same grid, bool.
        spacing_mm: Of the grid.
        words: From `contrast_from_words`.
    """
    return combine(words, contrast_from_image(image, mask, spacing_mm))


def combine(words: tuple[str | None, str], by_image: Mapping[str, float]) -> ContrastEstimate:
    """Bayes' rule: what the image says is the prior, and words name the true contrast nearly always.

    Where the words contradict an image that is sure, the result never is.

    Args:
        words: From `contrast_from_words`.
        by_image: From `contrast_from_image`.
    """
    named, why = words
    if named is None:
        best = max(by_image, key=lambda contrast: by_image[contrast])
        unclear = f"The {why}." if " but " in why else ""
        return _estimate(best, by_image[best], "image", unclear)
    odds = {c: max(by_image[c], LEAST_BY_IMAGE[c]) * _likelihood(named, c) for c in CONTRASTS}
    best = max(odds, key=lambda contrast: odds[contrast])
    probability = odds[best] / sum(odds.values())
    doubt = contradiction(named, by_image, f"the {why}")
    if doubt:
        return _estimate(best, min(probability, SURE - 0.01), why if best == named else "image", doubt)
    return _estimate(best, probability, f"{why} and image" if best == named else "image", "")


def contradiction(named: str, by_image: Mapping[str, float], who: str = "the user") -> str:
    """A sentence where an image is sure to have another look than the contrast that somebody named; else empty.

    Args:
        named: One of `CONTRASTS`.
        by_image: From `contrast_from_image`.
        who: Who named it, for the sentence.
    """
    looks: dict[str, float] = {}
    for contrast, probability in by_image.items():
        looks[_look(contrast)] = looks.get(_look(contrast), 0.0) + probability
    best = max(looks, key=lambda look: looks[look])
    if best == _look(named) or looks[best] < SURE:
        return ""
    return f"{who[0].upper()}{who[1:]} says {named}, but the image looks like {best}."


def _look(contrast: str) -> str:
    """T1 with and without contrast agent look alike, but for some vessels."""
    return "T1" if contrast == "T1C" else contrast


def _likelihood(named: str, contrast: str) -> float:
    """Probability that words name one contrast where it is another."""
    if named == contrast:
        return RIGHT
    if _look(named) == _look(contrast):
        return AGENT_UNNAMED if named == "T1" else AGENT_INVENTED
    return WRONG


def _estimate(contrast: str, probability: float, source: str, reason: str) -> ContrastEstimate:
    asked = f"The contrast is taken for {contrast}; choose another if that is wrong." if probability < SURE else ""
    return ContrastEstimate(contrast, round(probability, 3), source, " ".join(filter(None, (reason, asked))))


def contrast_of(
    image: np.ndarray, mask: np.ndarray, spacing_mm: float, source: str, named: str | None = None
) -> ContrastEstimate:
    """The contrast of a brain scan, one that `READ_AS` knows.

    Args:
        image, mask, spacing_mm: As for `contrast_from_image`.
        source: Path of the scan.
        named: By the user, who is believed; a doubt is told where the image contradicts.

    Raises:
        DisyreError: It is another contrast for sure, and nobody insists.
    """
    by_image = contrast_from_image(image, mask, spacing_mm)
    if named is not None:
        return ContrastEstimate(named, 1.0, "user", contradiction(named, by_image))
    found = combine(contrast_from_words(source, read_header(source)), by_image)
    if found.contrast in READ_AS:
        return found
    if found.is_sure:
        kind = "no T1, T2 or FLAIR" if found.contrast == "other" else found.contrast
        raise DisyreError(f"The scan is {kind} by its {found.source}; give T1, T2 or FLAIR, or name the contrast.")
    likely = max(READ_AS, key=lambda contrast: by_image[contrast])
    doubt = f"The contrast is not clear and was taken for {likely}; choose another if that is wrong."
    return replace(found, contrast=likely, probability=round(by_image[likely], 3), doubt=doubt)
