"""From the original CASIA-SURF files to the competition's layout, for those who hold a licence for them.

`python -m data.casia_surf --labels Age_Gender.txt --images DIR --out DIR`; then
`python main.py -m my_method --task kaggle --data-dir DIR`.

The steps are those of the published evaluation (github.com/google-deepmind/unlearning_evaluation, surf.py): colour
pictures of live faces, resized to 32x32; ten age groups of equal width; an image-level split 80/10/10; and as the
forget set all training images of the first 15 persons. The ids of images are our own: Kaggle's are not public.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.kaggle import CLASSES, write_layout
from data.progress import with_bar

SPLIT_SEED = 43
"""The seed of the published split; the competition's private leaderboard had another one."""

FORGET_PERSONS = 15
_PATTERN = "WBackground/*/*/real.rssdk/color/*.jpg"
_PERSON = -4
"""Which component of a path that fits the pattern is the person."""

_PIXELS = 32


@dataclass(frozen=True)
class Picture:
    """One picture: its file, its id `<person>-<number>`, and who is on it."""

    file: Path
    image_id: str
    person: str


def convert(labels: Path, images: Path, out: Path, seed: int = SPLIT_SEED, progress: bool = True) -> dict[str, int]:
    """Write the layout into `out`; returns the number of images in each part.

    `labels` has a line `id age gender` for each person; `images` is the folder that contains `WBackground`.

    Raises:
        UserError: a file or folder is missing or cannot be read, a person has no age, there are not more than 15
            persons to train on, or `out` has a data set already.
    """
    if any(out.glob("*.csv")):
        raise UserError(f"{out} has a data set already: name another folder.")
    ages = read_ages(labels)
    pictures = find_pictures(images)
    for picture in pictures:
        if picture.person not in ages:
            raise UserError(f"{labels} has no line for the person {picture.person}, of whom {picture.file} is.")
    groups = age_groups(ages)
    everything = {
        "image_id": np.array([picture.image_id for picture in pictures]),
        "age_group": np.array([groups[picture.person] for picture in pictures]),
        "age": np.array([ages[picture.person] for picture in pictures]),
        "person_id": np.array([picture.person for picture in pictures]),
    }
    rows = split_rows([picture.person for picture in pictures], seed)
    everything["pixels"] = _resize_all(pictures, progress)  # last, because it takes minutes
    parts = {part: {name: values[chosen] for name, values in everything.items()} for part, chosen in rows.items()}
    write_layout(out, parts, progress)
    return {part: len(chosen) for part, chosen in rows.items()}


def read_ages(labels: Path) -> dict[str, int]:
    """The age of each person. Raises `UserError`, which names the line, for whatever is wrong."""
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{labels} cannot be read ({error}): name the file Age_Gender.txt.") from error
    ages: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or not (words[1].isascii() and words[1].isdigit()):
            raise UserError(f"{labels}, line {number}: {line.strip()!r} is not of the form 'id age gender'.")
        if ages.setdefault(words[0], int(words[1])) != int(words[1]):
            raise UserError(f"{labels}, line {number}: the person {words[0]} has another age in an earlier line.")
    if not ages:
        raise UserError(f"{labels} is empty: name the file Age_Gender.txt.")
    return ages


def age_groups(ages: dict[str, int]) -> dict[str, int]:
    """The class of each person, 0 to 9: between 11 equally spaced edges from the least age to the greatest + 1."""
    edges = np.linspace(min(ages.values()), max(ages.values()) + 1, len(CLASSES) + 1)
    return {person: int(np.digitize(age, edges)) - 1 for person, age in ages.items()}


def find_pictures(images: Path) -> list[Picture]:
    """Every picture of a live face, in the order of their paths. Raises `UserError` if there is none."""
    files = sorted(images.glob(_PATTERN), key=lambda file: file.as_posix())
    if not files:
        raise UserError(f"There are no images at {images / _PATTERN}: name the folder that contains WBackground.")
    seen: dict[str, int] = {}
    pictures = []
    for file in files:
        person = file.parts[_PERSON]
        seen[person] = seen.get(person, -1) + 1
        # An id has one hyphen, between the two numbers.
        pictures.append(Picture(file, f"{person.replace('-', '_')}-{seen[person]}", person))
    return pictures


def split_rows(persons: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """The rows of each part, int64. Raises `UserError` when there are not more than 15 persons to train on.

    Persons are in the order of their numbers if all ids are numbers, else in alphabetical order.
    """
    order = list(range(len(persons)))
    random.Random(seed).shuffle(order)
    train, validation, test = np.split(np.array(order), [int(0.8 * len(order)), int(0.9 * len(order))])
    number = all(person.isascii() and person.isdigit() for person in persons)
    known = sorted({persons[row] for row in train}, key=(lambda person: (int(person), person)) if number else None)
    if len(known) <= FORGET_PERSONS or not len(validation):
        raise UserError(
            f"There are {len(known)} persons and {len(persons)} images: with {FORGET_PERSONS} persons to forget, "
            "more are needed."
        )
    to_forget = np.isin([persons[row] for row in train], known[:FORGET_PERSONS])
    return {"retain": train[~to_forget], "forget": train[to_forget], "validation": validation, "test": test}


def _resize_all(pictures: Sequence[Picture], progress: bool) -> np.ndarray:
    """uint8 `(n, 3, 32, 32)`."""
    return np.stack([_resize(picture.file) for picture in with_bar(pictures, "resizing", progress)])


def _resize(file: Path) -> np.ndarray:
    """One picture as torchvision's `Resize((32, 32))` makes it (bilinear, antialiased), uint8 `(3, 32, 32)`."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((_PIXELS, _PIXELS), Image.Resampling.BILINEAR)
    # Pillow's decoders raise these for files that are no images, are cut short, or are absurdly large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}): repair or remove it.") from error
    return np.asarray(small).transpose(2, 0, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Turn the original CASIA-SURF files into a folder in the competition's layout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--labels", type=Path, required=True, help="Age_Gender.txt: a line 'id age gender' per person")
    parser.add_argument("--images", type=Path, required=True, help="the folder that contains WBackground")
    parser.add_argument("--out", type=Path, required=True, help="where to write the layout")
    parser.add_argument("--seed", type=int, default=SPLIT_SEED, help="seed of the split (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        counts = convert(given.labels, given.images, given.out, given.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: " + ", ".join(f"{count} {part}" for part, count in counts.items()))
    print(f"python main.py -m my_method --task kaggle --data-dir {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
