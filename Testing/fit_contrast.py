"""Learns the constants of the contrast classifier from synthetic scans and healthy T1.

    python Testing/fit_contrast.py LABELMAPS_DIR OUT.json [--healthy T1.nii.gz ...] [--heads 220] [--seed 0]

Heads are rendered from label maps with the signal equations of common sequences, get lesions of up to 280 mL with mass
effect, slices of up to 8 mm, shading, noise and imperfect skull stripping, and are measured by
`contrast_image.features`. No image of a patient is used. The same command gives the same file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from scipy import ndimage

from DISYRECore.io.labels import CSF_LABEL, FIRST_HEAD_LABEL
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, crop_box, model_grid, resample, to_canonical
from DISYRECore.preprocessing.contrast_image import CONTRASTS, FARTHEST, Classifier, features
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies
from DISYRECore.synthesis.images import Lattice, draw_scan, render_scan
from DISYRECore.synthesis.intensity import MIDDLE, brain_scale, expand

SPACING_MM = 2.0
HEAD_MM = (192, 232, 192)
SHAPE = (96, 112, 88)
MARGIN = 3
VARIANTS = 6
FLOOR = (0.0, 1.0)
LESION_ML = (5.0, 280.0)
SHARES = {"T1": 0.28, "T2": 0.28, "FLAIR": 0.28, "T1C": 0.05, "PD": 0.06, "other": 0.05}

FLUID, CHOROID, VESSELS = {4, 5, 14, 15, CSF_LABEL, 72}, {136, 137}, {30}
WHITE = {2, 7, 85}
FAT, BONE = {507, 511}, {515, 516}
TOWARDS_WHITE = {10: 0.5, 11: 0.05, 12: 0.15, 13: 0.75, 16: 0.8, 26: 0.05, 28: 0.75}
IRON = {11: 0.3, 12: 0.4, 13: 1.0}


# --- signals of tissues


def tissue_times(random: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Proton density, T1 and T2 (ms) of CSF, grey and white matter at 1.5 or 3 T, each (3,)."""
    at_3t = random.random() < 0.5
    t1 = np.array((4000.0, 1400.0, 880.0) if at_3t else (4000.0, 1060.0, 650.0))
    t2 = np.array((random.uniform(300, 2000), *((92.0, 71.0) if at_3t else (97.0, 78.0))))
    spread = np.array([0.1, 0.07, 0.07])
    density = np.array([1.0, random.uniform(0.78, 0.87), random.uniform(0.65, 0.73)])
    return density, t1 * np.exp(spread * random.standard_normal(3)), t2 * np.exp(spread / 2 * random.standard_normal(3))


def spin_echo(tissue: tuple[np.ndarray, ...], tr: float, te: float) -> np.ndarray:
    """Signal of a spin echo (times in ms)."""
    density, t1, t2 = tissue
    return density * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def inversion_recovery(tissue: tuple[np.ndarray, ...], tr: float, te: float, ti: float) -> np.ndarray:
    """Magnitude after an inversion pulse (times in ms)."""
    density, t1, t2 = tissue
    return np.abs(density * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))) * np.exp(-te / t2)


def spoiled_gradient_echo(tissue: tuple[np.ndarray, ...], tr: float, angle: float) -> np.ndarray:
    """Signal of a spoiled gradient echo with a short TE (tr in ms, angle in radians)."""
    density, t1, _ = tissue
    decay = np.exp(-tr / t1)
    return density * np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay)


def t1_signal(random: Generator, tissue: tuple[np.ndarray, ...]) -> np.ndarray:
    """CSF, grey and white matter in a T1-weighted sequence."""
    sequence = random.choice(["spin echo", "gradient echo", "prepared"], p=[0.5, 0.2, 0.3])
    if sequence == "spin echo":
        return spin_echo(tissue, random.uniform(350, 650), random.uniform(8, 20))
    if sequence == "gradient echo":
        return spoiled_gradient_echo(tissue, random.uniform(7, 30), np.radians(random.uniform(15, 35)))
    return np.array([random.uniform(0.08, 0.3), random.uniform(0.5, 0.8), 1.0])


def flair_signal(random: Generator, tissue: tuple[np.ndarray, ...]) -> np.ndarray:
    """CSF, grey and white matter in FLAIR, the fluid nulled more or less well."""
    tr = random.uniform(5500, 11000)
    null = tissue[1][0] * (np.log(2) - np.log1p(np.exp(-tr / tissue[1][0])))
    signal = inversion_recovery(tissue, tr, random.uniform(75, 150), null * random.uniform(0.9, 1.1))
    signal[0] += random.uniform(0, 0.3) * signal[1]
    return signal


def other_signal(random: Generator) -> np.ndarray:
    """Susceptibility, or an order of the tissues that no other contrast has."""
    if random.random() < 0.5:
        return np.array([random.uniform(0.85, 1.3), 1.0, random.uniform(0.97, 1.05)])
    low, middle, high = np.sort(random.uniform(0.1, 1, 3))
    return np.array([(middle, low, high), (high, low, middle), (middle, high, low)][random.integers(3)])


def tissue_signal(contrast: str, random: Generator) -> np.ndarray:
    """CSF, grey and white matter in a contrast, (3,), the brightest 1."""
    tissue = tissue_times(random)
    if contrast in ("T1", "T1C"):
        signal = t1_signal(random, tissue)
    elif contrast == "T2":
        signal = np.array([random.uniform(1.7, 4), random.uniform(1.1, 1.6), 1.0])
    elif contrast == "FLAIR":
        signal = flair_signal(random, tissue)
    elif contrast == "PD":
        signal = spin_echo(tissue, random.uniform(1800, 4500), random.uniform(8, 35))
    else:
        signal = other_signal(random)
    return signal / signal.max()


def class_means(contrast: str, labels: tuple[int, ...], random: Generator) -> np.ndarray:
    """Mean intensity of every class of a scan, (L,)."""
    csf, grey, white = signal = tissue_signal(contrast, random)
    iron = random.uniform(0, 0.3) * (contrast not in ("T1", "T1C"))
    means = np.zeros(len(labels))
    for i, label in enumerate(labels):
        u, jitter = random.random(), 0.03 * random.standard_normal()
        if label in FLUID:
            means[i] = csf
        elif label in WHITE:
            means[i] = white * (1 + jitter * (label != 2))
        elif label in CHOROID | VESSELS:
            means[i] = signal.max() * (random.uniform(1.0, 2.2) if contrast == "T1C" else u)
        elif 0 < label < FIRST_HEAD_LABEL:
            mix = TOWARDS_WHITE.get(label, 0.0) + 3 * jitter * (label in TOWARDS_WHITE)
            means[i] = (grey + (white - grey) * mix) * (1 - iron * IRON.get(label, 0.0) + jitter)
        elif label in BONE:
            means[i] = 0.3 * u * u
        elif label:
            means[i] = u * (1.5 if label in FAT else 1.0)
    return np.clip(means, 0, None)


# --- scans


def with_narrow_ventricles(bank: AnatomyBank) -> AnatomyBank:
    """The bank with every anatomy once more, its ventricles those of the young: the walls 1 to 2 mm further in."""
    white, fluid = (bank.label_values.index(label) for label in (2, 4))
    narrow = bank.classes.numpy().copy()
    for number, classes in enumerate(narrow):
        inside = classes == fluid
        classes[inside & ~ndimage.binary_erosion(inside, iterations=1 + number % 2)] = white
    return replace(
        bank,
        classes=torch.cat([bank.classes, torch.from_numpy(narrow)]),
        distance=torch.cat([bank.distance] * 2),
        brain_samples=torch.cat([bank.brain_samples] * 2),
    )


def render(bank: AnatomyBank, contrast: str, number: int, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """The surroundings of a healthy brain in linear intensities and its mask, (X, Y, Z)."""
    parameters = draw_scan(bank, 1, number, contrasts=("free",), reach_mm=(0.0, 0.0))
    means = torch.from_numpy(class_means(contrast, bank.label_values, random)).float()[None]
    parameters = replace(parameters, means=means)
    scan = render_scan(bank, parameters, Lattice(SHAPE, SPACING_MM), keep_head=True)
    mask = scan.mask[0].numpy().T
    box = crop_box(mask, margin=MARGIN)
    return expand(scan.image[0].clamp(max=0.99)).numpy().T[box].copy(), mask[box].copy()


def add_mass(image: np.ndarray, depth_mm: np.ndarray, contrast: str, random: Generator) -> np.ndarray:
    """A lesion of 5 to 280 mL anywhere in the brain, with oedema, a core, and tissue pushed aside."""
    low, high = LESION_ML
    ml = low * (high / low) ** random.random()
    centre = random.permutation(np.argwhere(depth_mm > 12))[0]
    radius_mm = np.cbrt(ml * 750 / np.pi) * np.exp(0.25 * random.standard_normal((3, 1, 1, 1)))
    centre = centre.astype(np.float32)[:, None, None, None]
    points = np.indices(image.shape, np.float32) - centre
    distance = np.sqrt(((points * SPACING_MM / radius_mm) ** 2).sum(0))
    push = random.uniform(0, 0.5) * np.exp(-(distance**2) / 2) * np.clip(depth_mm / 15, 0, 1)
    image = ndimage.map_coordinates(image, centre + points * (1 - push), order=1, mode="nearest")
    noise = smooth_noise(image.shape, 10, random)
    inside = np.clip((1 + 0.25 * noise - distance) * random.uniform(2, 8), 0, 1) * (depth_mm > 0)
    core = np.clip((random.uniform(0, 0.8) + 0.25 * noise - distance) * 6, 0, 1)
    border_step, core_step = lesion_steps(contrast, random)
    step = border_step + (core_step - border_step) * core + 0.05 * noise
    made = image + inside * step
    if contrast == "T1C":
        made += inside * np.exp(-(((distance - 0.6) / 0.12) ** 2)) * random.uniform(0.1, 0.5)
    return np.clip(made, 0, None)


def lesion_steps(contrast: str, random: Generator) -> tuple[float, float]:
    """Change of linear intensity in the border and the core of a lesion; the median of the brain is `MIDDLE`."""
    if contrast in ("T1", "T1C"):
        border = random.uniform(-0.22, 0.0)
        return border, random.choice([random.uniform(-0.35, 0.0), random.uniform(0.0, 0.4)], p=[0.7, 0.3])
    if contrast == "FLAIR":
        return random.uniform(0.1, 0.5), random.choice([random.uniform(-0.4, 0.0), random.uniform(0.1, 0.6)])
    if contrast in ("T2", "PD"):
        scale = 1.0 if contrast == "T2" else 0.3
        return scale * random.uniform(0.15, 0.8), scale * random.uniform(-0.2, 1.4)
    return random.uniform(-0.3, 0.6), random.uniform(-0.3, 0.6)


def add_leukoaraiosis(image: np.ndarray, depth_mm: np.ndarray, contrast: str, random: Generator) -> np.ndarray:
    """Soft changes around the middle of the brain, as in the white matter of the old."""
    noise = smooth_noise(image.shape, 6, random)
    where = np.clip(noise - random.uniform(0.3, 1.2), 0, 1) * np.clip((depth_mm - 18) / 10, 0, 1)
    return np.clip(image + where * lesion_steps(contrast, random)[0], 0, None)


def add_vessels(image: np.ndarray, depth_mm: np.ndarray, random: Generator) -> np.ndarray:
    """Bright vessels and sinuses at the surface of the brain, as a contrast agent makes them."""
    lines = np.abs(smooth_noise(image.shape, 5, random)) < random.uniform(0.05, 0.25)
    surface = (depth_mm > 0) & (depth_mm < random.uniform(3, 10))
    return np.where(lines & surface, np.maximum(image, MIDDLE * random.uniform(1.4, 2.4)), image)


def smooth_noise(shape: tuple[int, ...], wavelength: int, random: Generator) -> np.ndarray:
    """Noise that varies over some `wavelength` voxels."""
    coarse = random.standard_normal([n // wavelength + 3 for n in shape])
    return ndimage.zoom(coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=1)


def thicken(volume: np.ndarray, axis: int, thickness_mm: float) -> np.ndarray:
    """What remains of a volume that was scanned in thick slices and interpolated back."""
    width = thickness_mm / SPACING_MM
    if width <= 1:
        return volume
    averaged = np.moveaxis(ndimage.uniform_filter1d(volume, round(width), axis, mode="nearest"), axis, 0)
    slices = averaged[np.arange(0, len(averaged), width).astype(int)]
    place = np.clip(np.arange(len(averaged)) / width, 0, len(slices) - 1)
    low = np.minimum(place.astype(int), len(slices) - 2)
    share = (place - low)[:, None, None]
    return np.moveaxis(slices[low] * (1 - share) + slices[low + 1] * share, 0, axis)


def scanned(image: np.ndarray, mask: np.ndarray, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """What shading, thick slices, noise, 8 bit and imperfect stripping make of a head."""
    axes = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij"))
    slopes = random.uniform(-0.15, 0.15, (3, 1, 1, 1))
    shading = random.uniform(-0.15, 0.15) * (axes**2).sum(0) + (slopes * axes).sum(0)
    image = image * np.exp(shading)
    if random.random() < 0.6:
        axis, thickness_mm = random.choice(3, p=[0.2, 0.2, 0.6]), random.uniform(2, 8)
        image, soft = thicken(image, axis, thickness_mm), thicken(mask.astype(float), axis, thickness_mm)
        mask = soft > 0.5
    noise = 0.06 * random.random() ** 2 * MIDDLE * random.standard_normal((2, *image.shape))
    image = np.hypot(image + noise[0], noise[1])
    stripping = random.choice(["good", "rim", "eroded"], p=[0.65, 0.2, 0.15])
    if stripping == "rim":
        mask = ndimage.binary_dilation(mask, iterations=random.integers(1, 3))
    elif stripping == "eroded":
        mask = ndimage.binary_erosion(mask)
    if random.random() < 0.3:
        image = np.minimum(image, np.percentile(image[mask], random.uniform(97, 100)))
    if random.random() < 0.25:
        mask = mask.copy()
        cut = int(random.uniform(0, 0.2) * mask.shape[2])
        mask[:, :, : cut + np.flatnonzero(mask.any((0, 1)))[0]] = False
    return image, mask


def normalised(image: np.ndarray, mask: np.ndarray, floor: float = 1.0) -> np.ndarray:
    """Linear intensities as `prepare` leaves them: the brain's 1st percentile 0, its median `MIDDLE`.

    Vessels, dura and iron, which are not drawn, pull the low anchor of real scans down to `floor` times its value.
    """
    scale = brain_scale(image, mask)
    scale = replace(scale, low=floor * scale.low)
    return expand(np.minimum(scale.normalise(image), 0.999)) * mask


def variants(
    image: np.ndarray, mask: np.ndarray, contrast: str, random: Generator, count: int
) -> Iterator[dict[str, float]]:
    """Features of a healthy head with several lesions, scanned in several ways."""
    depth_mm = ndimage.distance_transform_edt(mask) * SPACING_MM
    if contrast == "T1C":
        image = add_vessels(image, depth_mm, random)
    for _ in range(count):
        made, kind = image, random.random()
        if kind < 0.65:
            made = add_mass(image, depth_mm, contrast, random)
        if 0.5 < kind < 0.8:
            made = add_leukoaraiosis(made, depth_mm, contrast, random)
        made, brain = scanned(made, mask, random)
        yield features(normalised(made, brain, random.uniform(*FLOOR)), brain, SPACING_MM)


def synthetic_rows(bank: AnatomyBank, heads: int, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Contrast and features of synthetic scans."""
    for number in range(heads):
        random = np.random.default_rng([seed, number])
        contrast = str(random.choice(list(SHARES), p=list(SHARES.values())))
        image, mask = render(bank, contrast, seed * 100_003 + number, random)
        for row in variants(image, mask, contrast, random, VARIANTS):
            yield contrast, row


def healthy_rows(paths: list[Path], seed: int, count: int = 12) -> Iterator[tuple[str, dict[str, float]]]:
    """Contrast and features of real T1 brains (stripped) with synthetic lesions."""
    for number, path in enumerate(paths):
        scan = to_canonical(read_volume(path))
        grid = model_grid(scan, SPACING_MM)
        image = resample(scan, grid).voxels
        mask = ndimage.binary_fill_holes(
            resample(Volume((scan.voxels > 0).astype(np.float32), scan.affine), grid).voxels > 0.5
        )
        for row in variants(normalised(image, mask), mask, "T1", np.random.default_rng([seed, 10**6, number]), count):
            yield "T1", row


# --- the classifier

DECAY = 5e-4
SMOOTHING = 0.005
"""Share of the label given to all contrasts alike, so that no answer is quite certain."""

WEIGHTS = {"T1": 1.0, "T1C": 0.2, "T2": 1.0, "FLAIR": 1.0, "PD": 0.1, "other": 0.1}
"""Of the scans in the loss: the last are drawn more often than they are met."""


def learn(rows: list[tuple[str, dict[str, float]]]) -> Classifier:
    """Fits the classifier to features and their contrasts: weighted cross-entropy with decay, L-BFGS, convex."""
    names = tuple(rows[0][1])
    table = np.array([list(row.values()) for _, row in rows])
    mean, deviation = np.nanmean(table, 0), np.nanstd(table, 0)
    x = torch.from_numpy(np.clip(np.nan_to_num((table - mean) / deviation), -FARTHEST, FARTHEST))
    y = torch.tensor([CONTRASTS.index(contrast) for contrast, _ in rows])
    share = torch.tensor([WEIGHTS[contrast] for contrast in CONTRASTS], dtype=torch.float64)
    weights = torch.zeros((len(names), len(CONTRASTS)), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(CONTRASTS), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=800, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = x @ weights + bias
        value = torch.nn.functional.cross_entropy(logits, y, share, label_smoothing=SMOOTHING)
        value = value + DECAY * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return Classifier(names, mean, deviation, weights.detach().numpy(), bias.detach().numpy())


def save(learnt: Classifier, path: Path) -> None:
    """Writes the constants as JSON, four significant digits each."""

    def rounded(values: np.ndarray) -> list[object]:
        return np.vectorize(lambda value: float(f"{value:.4g}"))(values).tolist()

    arrays = {name: rounded(getattr(learnt, name)) for name in ("mean", "deviation", "weights", "bias")}
    path.write_text(json.dumps({"names": learnt.names, **arrays}, separators=(",", ":")) + "\n", encoding="utf-8")


def main(given: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labelmaps", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--maps", type=int, default=14, help="use the first so many maps")
    parser.add_argument("--healthy", type=Path, nargs="*", default=[], help="stripped T1 of healthy people")
    parser.add_argument("--heads", type=int, default=220)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    bank = with_narrow_ventricles(
        load_anatomies(sorted(arguments.labelmaps.glob("*.nii.gz"))[: arguments.maps], HEAD_MM)
    )
    rows = [*synthetic_rows(bank, arguments.heads, arguments.seed), *healthy_rows(arguments.healthy, arguments.seed)]
    save(learn([row for row in rows if row[1]]), arguments.out)


if __name__ == "__main__":
    main()
