"""MNIST, prepared as in the published experiment on certified unlearning.

    python -m benchmarks.published.published_mnist --out DIR [--task folder --data-dir MNIST]
    python main.py sweep benchmarks/sweeps/mnist-course.yaml --data-dir DIR

The published code (Koloskova et al., arXiv 2506.06985) flips digits at random, as one does with photographs, and
rotates them by up to 10 degrees: 784-5-10 then reaches 80 % instead of 87 %. Here each training image is flipped or
rotated once, not again in each epoch (a tenth of the training images become the validation set); test images are not
changed. The files are in MNIST's own format, so that `--task mnist` reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data import TaskSpec, UserError, task_info
from data.raw import RawData

PARTS = {"train": "train", "test": "t10k"}
"""Parts of a data set, and what MNIST's files call them."""


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist", help="where the images come from: mnist, or folder for PNG files")
    parser.add_argument("--data-dir", help="as for main.py; without, MNIST is downloaded")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        raw = task_info(TaskSpec(options.task)).read(options.data_dir, True)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    if raw.pixels.shape[1:] != (1, 28, 28) or len(raw.classes) != 10:
        raise SystemExit("error: these are no grey images of 28x28 pixels in ten classes.")
    write(raw, options.out)
    print(f"written to {options.out}")


def write(raw: RawData, out: Path) -> None:
    """Write `out/MNIST/raw/*-ubyte`, four files of big-endian sizes and bytes. The same every time."""
    folder = out / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in PARTS.items():
        chosen = raw.parts == part
        pixels, labels = raw.pixels[chosen, 0], raw.labels[chosen]
        pixels = flipped_and_turned(pixels) if part == "train" else pixels
        for kind, magic, numbers in (("images-idx3", 2051, pixels), ("labels-idx1", 2049, labels)):
            head = np.array([magic, *numbers.shape], dtype=">i4").tobytes()
            (folder / f"{name}-{kind}-ubyte").write_bytes(head + numbers.astype(np.uint8).tobytes())


def flipped_and_turned(pixels: np.ndarray) -> np.ndarray:
    """Images `(n, H, W)`, half of them mirrored, all turned by an angle from -10 to 10 degrees."""
    import torch
    from PIL import Image
    from torchvision import transforms

    change = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomRotation(10)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])


if __name__ == "__main__":
    main()
