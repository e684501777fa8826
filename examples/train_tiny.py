"""Trains a tiny network on the bundled head: ``python examples/train_tiny.py [--steps N] [-o FOLDER]``.

The config beside this script says what is learnt; ``disyre train`` does the same for any config. A run that was
stopped resumes where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from DISYRECore.detection.detector import Detector
from DISYRECore.io.files import resources
from DISYRECore.training import train
from DISYRECore.training.config import read_config
from DISYRECore.training.data import TrainingData

CONFIG = Path(__file__).with_suffix(".yaml")


def main() -> None:
    """Trains, prints how the network does on held-out slices, and loads the model for detection."""
    config = read_config(CONFIG)
    parser = argparse.ArgumentParser(description="Trains a tiny network on the bundled head.")
    parser.add_argument("--steps", type=int, default=config.steps, help=f"default {config.steps}, two minutes")
    parser.add_argument("-o", "--output", default="runs/tiny", help="checkpoint, log and model (default runs/tiny)")
    options = parser.parse_args()
    output = Path(options.output)
    train(replace(config, steps=options.steps), TrainingData(labelmaps=resources() / "Anatomy"), output, device="cpu")
    for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        print(f"step {record['step']}: {record['removed']:.2f} removed, AP {record['ap_region']:.2f} of the region")
    detector = Detector(model=str(output / config.name))
    print(f"Ready: disyre detect SCAN -o RESULT --model {output / config.name} (method {detector.method})")


if __name__ == "__main__":
    main()
