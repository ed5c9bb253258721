"""The task `faces`: a stand-in for the competition's hidden data, generated instead of photographed.

What makes the hidden problem what it is, and is copied here:

* many images of each *subject*, alike but for pose, light, expression and background;
* ten age groups, the first by far the most frequent;
* a label that depends partly on how old somebody looks, and partly on who it is: a subject looks some years
  older or younger than they are, so a network has to remember subjects, as it has to remember photographs;
* an image-level split 80/10/10, so that validation and test set show the subjects that are to be forgotten;
* a forget set of all training images of 15 subjects, about 2 % (in the small size 3), from the two largest groups.

The images are 32x32, coloured, and written in the competition's layout (`data.kaggle`) into the cache folder.

Only additions, products, quotients and square roots make a picture, which every platform rounds alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cache import cached_folder, short_digest
from data.errors import UserError
from data.kaggle import read_kaggle, write_layout
from data.raw import RawData

FACES_SEED = 2023
FORGET_SUBJECTS = 15
GROUP_SHARES = (0.38, 0.17, 0.11, 0.08, 0.07, 0.055, 0.045, 0.035, 0.03, 0.025)
"""Share of the subjects in each age group; 5 years each, from 18 on."""

_FORGET_IN_SECOND_GROUP = 3
"""How many of the subjects to forget are in group 1; the others are in group 0."""

_VERSION = 2
"""Raised by one whenever other pictures are drawn: folders of older ones are then left alone."""

_PIXELS = 32
_CHUNK = 64
"""Images drawn at a time: so few that the arrays stay in the processor's cache."""

Values = dict[str, np.ndarray]
"""Numbers by name, `(subjects,)` or `(images,)` each; colours are `(..., 3)` in 0 to 255."""


@dataclass(frozen=True)
class FacesSize:
    """How many subjects and images, and how hard.

    `images` are the fewest and the most images of a subject, and `disguise` is how much older or younger than
    they are subjects look: the standard deviation, in age groups.
    """

    name: str
    subjects: int
    images: tuple[int, int]
    disguise: float = 0.2


FULL = FacesSize("full", subjects=800, images=(34, 41))
"""About 30,000 images, 24,000 of them to train on, as in the competition."""
MINI = FacesSize("mini", subjects=500, images=(8, 10))
"""About 4,500 images, 3,600 of them to train on."""


def read_faces(size: FacesSize, data_dir: str | None = None, progress: bool = True) -> RawData:
    """The faces, as `read_kaggle` reads them; drawn and written into the cache folder the first time.

    Raises `UserError` when given a `data_dir`: there are no files to read.
    """
    if data_dir is not None:
        raise UserError("The task faces has no files of its own: omit the data directory.")
    return read_kaggle(str(faces_folder(size, progress)), progress)


def faces_folder(size: FacesSize, progress: bool = True) -> Path:
    """The folder of the faces, in the competition's layout; made if it is not there yet."""
    name = f"faces-{size.name}-{short_digest(f'{size} {FACES_SEED} {_VERSION}')}"
    return cached_folder(name, lambda folder: write_layout(folder, make_faces(size), progress))


def make_faces(size: FacesSize, seed: int = FACES_SEED) -> dict[str, Values]:
    """Subjects, their pictures, and the split: the parts that `data.kaggle.write_layout` takes.

    The first 15 `person_id` are the subjects to forget. A function of its arguments alone.
    """
    # RandomState rather than default_rng: NumPy promises that its streams never change.
    random = np.random.RandomState(seed)
    subjects = _draw_subjects(size, random)
    counts = random.randint(size.images[0], size.images[1] + 1, size.subjects, dtype=np.int64)
    person = np.repeat(np.arange(size.subjects), counts)  # (images,) index of the subject
    number = np.concatenate([np.arange(count) for count in counts])  # (images,) which picture of the subject
    shots = _draw_shots(len(person), random)
    pictures = {
        "image_id": np.array([f"{p}-{i}" for p, i in zip(person, number, strict=True)]),
        "age_group": subjects["group"][person],
        "age": subjects["age"][person],
        "person_id": person,
        "pixels": _draw_all({name: values[person] for name, values in subjects.items()}, shots, random),
    }
    return _divide(pictures, random)


def _divide(pictures: Values, random: np.random.RandomState) -> dict[str, Values]:
    """The image-level split 80/10/10, and the training images of the first subjects as the forget set."""
    images = len(pictures["person_id"])
    order = random.permutation(images)
    train, validation, test = np.split(order, [int(0.8 * images), int(0.9 * images)])
    to_forget = pictures["person_id"][train] < FORGET_SUBJECTS
    rows = {"retain": train[~to_forget], "forget": train[to_forget], "validation": validation, "test": test}
    return {part: {name: values[chosen] for name, values in pictures.items()} for part, chosen in rows.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Who is in the pictures, and how they were taken
# ----------------------------------------------------------------------------------------------------------------------


def _bell(random: np.random.RandomState, *shape: int) -> np.ndarray:
    """Numbers of mean 0 and standard deviation 1, nearly normal, at most 3.5: a sum of four uniform ones."""
    uniform = random.random_sample((4, *shape))
    return (uniform[0] + uniform[1] + uniform[2] + uniform[3] - 2) * np.sqrt(3.0)


def _between(random: np.random.RandomState, low: float, high: float, count: int) -> np.ndarray:
    return low + (high - low) * random.random_sample(count)


def _groups(subjects: int, random: np.random.RandomState) -> np.ndarray:
    """The age group of each subject, int64 `(subjects,)`: those to forget first, the others in random order."""
    counts = np.maximum(1, np.round(np.array(GROUP_SHARES) * subjects)).astype(np.int64)
    counts[0] += subjects - counts.sum()
    forgotten = np.repeat([0, 1], [FORGET_SUBJECTS - _FORGET_IN_SECOND_GROUP, _FORGET_IN_SECOND_GROUP])
    others = np.repeat(np.arange(len(counts)), counts - np.bincount(forgotten, minlength=len(counts)))
    return np.concatenate([random.permutation(forgotten), random.permutation(others)])


def _draw_subjects(size: FacesSize, random: np.random.RandomState) -> Values:
    """The subjects: `group`, `age`, `looks` (the visible age, 0 young to 1 old) and what they look like."""
    n = size.subjects
    group = _groups(n, random)
    age = 18 + 5 * group + random.randint(0, 5, n, dtype=np.int64)
    looks = ((age - 18) / 50 + size.disguise / 10 * _bell(random, n)).clip(0, 1)
    tan = random.random_sample((n, 1))
    dark = random.random_sample((n, 1)) ** 2
    return {
        "group": group,
        "age": age,
        "looks": looks,
        "skin": np.array([240, 205, 180]) + tan * np.array([-105, -115, -120]) + 8 * _bell(random, n, 3),
        "hair": np.array([25, 20, 20]) + dark * np.array([190, 140, 70]) + 6 * _bell(random, n, 3),
        "iris": np.array([60, 40, 25]) + random.random_sample((n, 1)) * np.array([30, 80, 130]),
        "lips": np.array([185, 90, 90]) + 18 * _bell(random, n, 3),
        "width": _between(random, 0.46, 0.62, n),
        "height": _between(random, 0.66, 0.80, n),
        "jaw": _between(random, 0.0, 0.45, n),
        "eye_gap": _between(random, 0.19, 0.28, n),
        "eye_level": _between(random, -0.14, -0.02, n),
        "eye_size": _between(random, 0.085, 0.125, n),
        "brow": _between(random, 0.02, 0.06, n),
        "brow_level": _between(random, 0.13, 0.20, n),
        "nose_length": _between(random, 0.20, 0.32, n),
        "nose_width": _between(random, 0.06, 0.13, n),
        "mouth_level": _between(random, 0.36, 0.46, n),
        "mouth_width": _between(random, 0.15, 0.27, n),
        "lip": _between(random, 0.035, 0.075, n),
        "hairline": _between(random, -0.58, -0.38, n),
        "fringe": _between(random, -0.5, 0.6, n),
        "hair_length": _between(random, -0.3, 0.9, n),
        "balding": random.random_sample(n) ** 2,
        "beard": np.maximum(0, _between(random, -1.2, 0.9, n)),
        "glasses": (random.random_sample(n) < 0.25).astype(np.float64),
        "ears": _between(random, 0.04, 0.12, n),
        "wall": 50 + 160 * random.random_sample((n, 3)),
        "clothes": 230 * random.random_sample((n, 3)),
    }


def _draw_shots(images: int, random: np.random.RandomState) -> Values:
    """What differs between pictures of one subject, frames of one video: pose, expression, light, and little else."""
    return {
        "right": 0.02 * _bell(random, images),
        "down": 0.02 * _bell(random, images),
        "zoom": 1 + 0.02 * _bell(random, images),
        "roll": 0.03 * _bell(random, images),
        "yaw": 0.02 * _bell(random, images),
        "smile": 0.4 * _bell(random, images),
        "mouth_open": np.maximum(0, _bell(random, images)),
        "eyes_open": 1 + 0.06 * _bell(random, images),
        "brightness": 1 + 0.04 * _bell(random, images),
        "light": 0.06 * _bell(random, images),
        "warmth": 0.012 * _bell(random, images),
        "wall_change": 12 * _bell(random, images, 3),
        "clothes_change": 12 * _bell(random, images, 3),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Drawing. Coordinates run from -1 to 1, to the right and down; masks are (images, 32, 32), 0 to 1
# ----------------------------------------------------------------------------------------------------------------------


def _draw_all(subjects: Values, shots: Values, random: np.random.RandomState) -> np.ndarray:
    """All pictures, uint8 `(images, 3, 32, 32)`; both arguments have a row for each of them."""
    images = len(shots["zoom"])
    pixels = np.empty((images, 3, _PIXELS, _PIXELS), dtype=np.uint8)
    for start in range(0, images, _CHUNK):
        rows = slice(start, start + _CHUNK)
        picture = _draw({name: values[rows] for name, values in {**subjects, **shots}.items()})
        grain = random.randint(-6, 7, (2, *picture.shape), dtype=np.int64).sum(axis=0)  # sensor noise
        pixels[rows] = np.round(picture + grain).clip(0, 255)
    return pixels


class _Canvas:
    """Pictures that are painted on: `pixels` float32 `(images, 3, 32, 32)`."""

    def __init__(self, images: int) -> None:
        self.pixels = np.zeros((images, 3, _PIXELS, _PIXELS), dtype=np.float32)

    def paint(self, mask: np.ndarray, colour: np.ndarray) -> None:
        """Cover the mask with a colour `(images, 3)`, or one for all `(3,)`."""
        colour = np.atleast_2d(colour).astype(np.float32)[:, :, np.newaxis, np.newaxis]
        self.pixels += mask[:, np.newaxis] * (colour - self.pixels)

    def shade(self, mask: np.ndarray, factor: float | np.ndarray) -> None:
        """Multiply what lies under the mask by a factor (0 is black, 1 changes nothing)."""
        self.pixels *= 1 - (mask * (1 - factor))[:, np.newaxis]


def _draw(p: Values) -> np.ndarray:
    """Pictures from what is known of each: float32 `(images, 3, 32, 32)`."""
    p = {name: values.astype(np.float32) for name, values in p.items()}
    p = {name: values.reshape(-1, 1, 1) if values.ndim == 1 else values for name, values in p.items()}  # to broadcast
    axis = ((np.arange(_PIXELS) * 2 + 1) / _PIXELS - 1).astype(np.float32)
    x, y = (axis[np.newaxis, np.newaxis, :] - p["right"]) / p["zoom"], (axis[:, np.newaxis] - p["down"]) / p["zoom"]
    u, v = x + p["roll"] * y, y - p["roll"] * x  # (images, 32, 32) each: small turns only
    canvas = _Canvas(len(u))
    _draw_surroundings(canvas, p, u, v)
    _draw_head(canvas, p, u, v)
    inner = u - p["yaw"]  # a turned head moves what is in the middle of the face
    _draw_age(canvas, p, inner, v)
    _draw_eyes(canvas, p, inner, v)
    _draw_nose_and_mouth(canvas, p, inner, v)
    _draw_hair(canvas, p, u, v)
    _draw_glasses(canvas, p, inner, v)
    light = p["brightness"] * (1 + p["light"] * u)  # (images, 32, 32)
    tint = 1 + p["warmth"] * np.array([[1], [0], [-1]], dtype=np.float32)  # (images, 3, 1)
    return canvas.pixels * light[:, np.newaxis] * tint[..., np.newaxis]


def _edge(distance: np.ndarray) -> np.ndarray:
    """1 inside (negative distance), 0 outside, and a slope as wide as a pixel between them."""
    return (0.5 - distance * (_PIXELS / 2)).clip(0, 1)


def _oval(u: np.ndarray, v: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """An ellipse around the origin with the half-axes a and b."""
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    return _edge((radius - 1) * np.minimum(a, b, dtype=np.float32))


def _line(v: np.ndarray, half_width: float | np.ndarray, u: np.ndarray, half_length: float | np.ndarray) -> np.ndarray:
    """A horizontal stroke around the origin."""
    return _edge(np.abs(v) - half_width) * _edge(np.abs(u) - half_length)


def _head_width(p: Values, v: np.ndarray) -> np.ndarray:
    """Half the width of the head at the height v: narrow at the jaw, and less so in old age."""
    return p["width"] * (1 - p["jaw"] * (1 - 0.4 * p["looks"]) * v.clip(0, 1))


def _draw_surroundings(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    everywhere = np.ones_like(u)
    canvas.paint(everywhere, p["wall"] + p["wall_change"])
    canvas.shade(everywhere, 1 - 0.15 * v)
    long_hair = _oval(u, v - 0.3 * p["hair_length"].clip(0), p["width"] + 0.13, 0.78 + 0.3 * p["hair_length"].clip(0))
    canvas.paint(long_hair * (p["hair_length"] > 0), 0.8 * _hair_colour(p))
    canvas.paint(_oval(u, v - 1.15, 0.95, 0.42), p["clothes"] + p["clothes_change"])
    canvas.paint(_edge(np.abs(u) - 0.26) * _edge(0.3 - v) * _edge(v - 0.86), 0.8 * _skin_colour(p))


def _skin_colour(p: Values) -> np.ndarray:
    """`(images, 3)`: paler and greyer with age."""
    looks = p["looks"][:, 0]
    return p["skin"] * (1 - 0.12 * looks) + 0.12 * looks * np.array([190, 175, 165])


def _hair_colour(p: Values) -> np.ndarray:
    """`(images, 3)`: greyer every year."""
    grey = (p["looks"][:, 0] / 0.7).clip(0, 1)
    return p["hair"] * (1 - grey) + grey * np.array([205, 205, 205])


def _draw_head(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    skin = _skin_colour(p)
    canvas.paint(_oval(np.abs(u) - p["width"], v - 0.02, p["ears"], 0.14), 0.85 * skin)
    head = _oval(u, v, _head_width(p, v), p["height"])
    canvas.paint(head, skin)
    rim = ((u / p["width"]) ** 2 + (v / p["height"]) ** 2).clip(0, 1) ** 2
    canvas.shade(head * rim, 0.78)
    cheeks = _oval(np.abs(u) - 0.3, v - 0.2, 0.14, 0.11) * (1 - p["looks"])
    canvas.paint(0.22 * cheeks, np.array([225, 110, 100]))
    stubble = p["beard"] * _edge(p["mouth_level"] - 0.16 - 0.6 * (np.abs(u) - 0.25).clip(0) - v) * head
    canvas.paint(stubble.clip(0, 0.9), _hair_colour(p))


def _draw_age(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    """What age leaves in a face: furrows, crow's feet, bags under the eyes, folds beside the mouth."""
    looks, side = p["looks"], np.abs(u)
    for height, from_age in ((-0.30, 0.0), (-0.38, 0.2), (-0.46, 0.4)):
        furrow = _line(v - height - 0.3 * u**2, 0.012, u, 0.26)
        canvas.shade(furrow * (2 * (looks - from_age)).clip(0, 1), 0.55)
    eye = p["eye_level"]
    bags = _line(v - eye - 0.13 + 1.5 * (side - p["eye_gap"]) ** 2, 0.012, side - p["eye_gap"], 0.11)
    canvas.shade(bags * (1.6 * looks).clip(0, 1), 0.6)
    feet = _line(v - eye - 0.3 * (side - 0.4), 0.012, side - p["eye_gap"] - 0.17, 0.05)
    canvas.shade(feet * (1.6 * (looks - 0.1)).clip(0, 1), 0.6)
    top, bottom = 0.16, p["mouth_level"] + 0.08
    fold = _edge(np.abs(side - 0.14 - 0.38 * (v - top)) - 0.015) * _edge(top - v) * _edge(v - bottom)
    canvas.shade(fold * (1.5 * looks).clip(0, 1), 0.6)
    jowls = _oval(side - 0.24, v - p["height"] + 0.12, 0.10, 0.07)
    canvas.shade(jowls * (looks - 0.4).clip(0, 1), 0.6)


def _draw_eyes(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    side, w = np.abs(u) - p["eye_gap"], v - p["eye_level"]
    size = p["eye_size"]
    opening = size * 0.62 * p["eyes_open"] * (1 - 0.4 * p["looks"])
    canvas.shade(_oval(side, w, size * 1.25, opening * 1.6), 0.82)
    canvas.paint(_oval(side, w, size, opening), np.array([238, 236, 232]))
    canvas.paint(_oval(side, w, size * 0.55, np.minimum(opening, size * 0.55)), p["iris"])
    canvas.paint(_oval(side, w, size * 0.25, np.minimum(opening, size * 0.25)), np.array([15, 12, 12]))
    canvas.shade(_line(w + opening, 0.012, side, size), 0.45)
    brow = _line(w + p["brow_level"] - 0.25 * side**2, p["brow"] * 0.6, side, size * 1.15)
    canvas.paint(0.85 * brow, 0.8 * _hair_colour(p))


def _draw_nose_and_mouth(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    tip = p["eye_level"] + p["nose_length"] * (1 + 0.15 * p["looks"])
    ridge = _edge(np.abs(u - 0.5 * p["nose_width"]) - 0.018) * _edge(p["eye_level"] - v) * _edge(v - tip)
    canvas.shade(ridge, 0.85)
    canvas.shade(_oval(u, v - tip, p["nose_width"], 0.035), 0.72)
    canvas.shade(_oval(np.abs(u) - 0.6 * p["nose_width"], v - tip, 0.025, 0.02), 0.6)
    w = v - p["mouth_level"] + 0.8 * p["smile"] * u**2  # a smile lifts the corners
    thickness = p["lip"] * (1 - 0.5 * p["looks"]) + 0.03 * p["mouth_open"]
    canvas.paint(_oval(u, w, p["mouth_width"], thickness), p["lips"])
    canvas.shade(_oval(u, w, 0.9 * p["mouth_width"], 0.012 + 0.02 * p["mouth_open"]), 0.35)


def _draw_hair(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    colour = _hair_colour(p)
    scalp = _oval(u, v + 0.04, p["width"] + 0.07, p["height"] + 0.09)
    recede = 0.35 * p["balding"] * p["looks"]
    line = p["hairline"] - recede + 0.5 * p["fringe"] * u - 0.2 * u**2  # hair is above it
    temples = _edge(p["width"] - 0.04 - np.abs(u)) * _edge(v - 0.1 - 0.3 * p["hair_length"])
    canvas.paint(scalp * np.maximum(_edge(v - line), temples), colour)
    strands = (np.abs((6 * u + 3 * v) % 1 - 0.5) * 0.5).clip(0, 1)
    canvas.shade(scalp * _edge(v - line) * strands, 0.6)


def _draw_glasses(canvas: _Canvas, p: Values, u: np.ndarray, v: np.ndarray) -> None:
    side, w = np.abs(u) - p["eye_gap"], v - p["eye_level"]
    rim = _oval(side, w, 0.19, 0.15) - _oval(side, w, 0.14, 0.10)
    bridge = _line(w, 0.02, u, p["eye_gap"] - 0.15)
    canvas.paint((p["glasses"] * (rim + bridge)).clip(0, 0.9), np.array([30, 30, 35]))
