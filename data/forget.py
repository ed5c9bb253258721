"""Forget requests: from what a user writes to the training images that are to be forgotten.

| request | forgets |
|---|---|
| `random:0.1`, `random:60` | a share, or a number, of the training images, drawn uniformly at random |
| `class:3`, `class:airplane` | all images of a class, by name or index (a name comes first, if both fit) |
| `class:3:0.5`, `class:3:20` | a share, or a number, of the images of a class, at random |
| `group:person_id:15` | all images of 15 whole groups of a metadata column |
| `where:camera == "A" and year <= 2016` | the images for which an expression over the metadata is true |
| `file:indices.npy` | the images whose indices or ids are in a file: `.npy`, `.npz`, `.csv`, `.txt`, `.json`, `.pt` |
| `confuse:0.1`, `confuse:20` | a share, or a number, of the images of each class, mislabelled as the next class |
| `random:0.1@7`, ... | the same with seed 7, wherever images are drawn: others than without a seed |

docs/requests.md tells users more; `data/where.py` has the language of `where:`. Random requests depend on their seed
alone. They draw among what earlier requests have left, so that the same request can arrive twice.

`confuse` is about mistakes in the data, after the interclass confusion of Goel et al., "Towards Adversarial Evaluation
of Inexact Machine Unlearning" (arXiv 2201.06640), as github.com/makamoa/unlearning has it. Its images have the label
(y + 1) mod classes from the beginning, however late the request arrives: originals are trained on that label, and
loaders hand it out. Requests see the true classes; validation and test set keep theirs.

The forget accuracy is then the share of images that are called what they are not (of retrained models, hardly any),
and the metric's confidence that of the wrong label. So it should be: the wrong label is what can only be learned from
these images, and the metric wants the confidences of the retrained models, neither higher nor lower. A model that
denies the wrong label more firmly than they do is found out as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError, shortened, unknown_name
from data.listed import READERS, ListError, read_list
from data.task import Request, Source, Split
from data.texts import nfc
from data.where import rows_where

FORGET_SEED = 43
"""Seed of the random requests that name none. A constant, like that of the splits."""

MOST_SEED = 2**32 - 1
"""Of NumPy's generator."""

MOST_ENTRY, MARGIN = 1024, 1 << 16
"""Bytes of an index or id in a file, at most, and of all else in it: a larger file has some twice."""

_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Scene:
    """What a request arrives at: the training split, the names of the classes, and what is forgotten already."""

    train: Split
    classes: Sequence[str]
    forgotten: np.ndarray
    """Training indices, int64 `(n,)`."""
    may_overlap: bool
    """Whether a request may name what is forgotten already."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each training image, int64 `(train,)`, on the host."""
        return self.train.labels.cpu().numpy()


def parse_requests(
    texts: Sequence[str], train: Split, classes: Sequence[str], may_overlap: bool = False
) -> tuple[Request, ...]:
    """Requests that arrive in this order; no two of them may name the same image, unless they `may_overlap`.

    Raises `UserError` as `parse_request` does.
    """
    requests: list[Request] = []
    forgotten = _NOTHING
    for text in texts:
        requests.append(parse_request(text, train, classes, forgotten, may_overlap))
        forgotten = np.union1d(forgotten, requests[-1].indices)
    return tuple(requests)


def merge_requests(requests: Sequence[Request]) -> Request:
    """One request for all that several name."""
    indices = np.unique(np.concatenate([request.indices for request in requests]))
    return Request(" + ".join(request.text for request in requests), indices)


def parse_request(
    text: str,
    train: Split,
    classes: Sequence[str],
    forgotten: np.ndarray = _NOTHING,
    may_overlap: bool = False,
) -> Request:
    """One request, after those that have `forgotten` some training indices, int64 `(n,)`, already.

    Raises `UserError` when the text cannot be understood, when it names no image, an image that does not
    exist or (unless it `may_overlap`) one that is forgotten already, or when nothing would be left to retain.
    """
    scene = Scene(train, classes, forgotten, may_overlap)
    kind, _, argument = text.partition(":")
    if kind not in _KINDS:
        raise unknown_name("kind of forget request", kind, _KINDS)
    try:
        if not argument.strip():
            raise UserError(f"something must follow '{kind}:'.")
        argument = argument if kind == "file" else nfc(argument)  # a path is what it is
        indices = np.sort(_KINDS[kind](argument.strip(), scene)).astype(np.int64)
        _check(indices, scene)
    except UserError as error:
        raise UserError(f"Forget request {shortened(text, 300)!r}: {error}") from error
    return Request(text, indices, _next_class(indices, train, classes) if kind == "confuse" else None)


def _check(indices: np.ndarray, scene: Scene) -> None:
    if len(indices) == 0 and not (scene.may_overlap and len(scene.forgotten)):
        raise UserError("it names no training image; widen it.")
    again = np.intersect1d(indices, scene.forgotten)
    if len(again) and not scene.may_overlap:
        raise UserError(
            f"{len(again)} of its {len(indices)} images are forgotten by an earlier request already "
            f"({scene.train.image_ids[again[0]]} for example); requests that arrive one after another must not overlap "
            "(--at-once makes one of them)."
        )
    if len(np.union1d(indices, scene.forgotten)) >= len(scene.train):
        raise UserError("nothing would be left to retain; forget less.")


def _random(argument: str, scene: Scene) -> np.ndarray:
    return _draw(np.arange(len(scene.train)), argument, scene)


def _class(argument: str, scene: Scene) -> np.ndarray:
    name, colon, share = argument.rpartition(":")
    if not colon or _is_class(argument, scene.classes):
        return np.flatnonzero(scene.labels == _label(argument, scene.classes))
    return _draw(np.flatnonzero(scene.labels == _label(name, scene.classes)), share, scene)


def _is_class(name: str, classes: Sequence[str]) -> bool:
    return name in classes or (_is_whole(name) and int(name) < len(classes))


def _is_whole(text: str) -> bool:
    """Whether it is a whole number without a sign, of a size that images can have."""
    return text.isascii() and text.isdigit() and len(text) < 19


def _label(name: str, classes: Sequence[str]) -> int:
    """The label of a class that is given by name or, if there is no such name, by index."""
    if not _is_class(name, classes):
        whole, at, seed = name.rpartition("@")
        if at and _is_class(whole, classes):
            raise UserError(f"class:{whole} is a whole class: a seed needs a share of it, as class:{whole}:0.5@{seed}.")
        raise unknown_name("class", name, classes)
    return list(classes).index(name) if name in classes else int(name)


def _draw(candidates: np.ndarray, how_many: str, scene: Scene, seed: int = FORGET_SEED) -> np.ndarray:
    """Some of the candidates that are not forgotten yet, uniformly at random: `0.1`, `60`, or `0.1@7` with a seed.

    Where requests may overlap and too few are left, all of these: the others that it could name are named already.
    """
    number, at, chosen = how_many.partition("@")
    count = _count(number, len(candidates))
    # RandomState rather than default_rng: NumPy promises that its streams never change.
    order = np.random.RandomState([seed, _seed(chosen)] if at else seed).permutation(candidates)
    free = order[~np.isin(order, scene.forgotten)]
    most = len(candidates) if scene.may_overlap else len(free)
    if count > most:
        raise UserError(f"{count} images are asked for and {most} are there; ask for fewer.")
    return free[:count]


def _seed(text: str) -> int:
    if not _is_whole(text) or int(text) > MOST_SEED:
        raise UserError(f"a seed is a whole number from 0 to {MOST_SEED}, such as 7 in random:0.1@7, not {text!r}.")
    return int(text)


def _count(how_many: str, total: int) -> int:
    """A whole number is a number of images; anything else is a share of them, rounded."""
    try:
        if _is_whole(how_many):
            return int(how_many)
        share = float(how_many)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise UserError(
            f"{shortened(how_many)!r} is neither a number of images, such as 60, nor a share of them, such as 0.1."
        )
    return round(share * total)


def _group(argument: str, scene: Scene) -> np.ndarray:
    """The first groups in sorted order of their ids, as in the competition.

    There, the forget set was the first split of scikit-learn's `LeavePGroupsOut(n_groups=15)`: the 15 persons
    with the smallest ids. Images without an id (an empty cell) belong to no group.
    """
    column, colon, count = argument.rpartition(":")
    columns = metadata_columns(scene.train, scene.classes)
    if not colon or not _is_whole(count):
        raise UserError("write the column and the number of groups, such as group:person_id:15.")
    if column not in columns:
        raise unknown_name("metadata column", column, columns)
    ids = columns[column]
    known = (ids != "") if ids.dtype.kind == "U" else (ids == ids)  # NaN is not equal to itself
    groups = np.unique(ids[known])
    if int(count) > len(groups):
        raise UserError(f"{count} groups are asked for and the training images have {len(groups)}; ask for fewer.")
    return np.flatnonzero(np.isin(ids, groups[: int(count)]))


def metadata_columns(train: Split, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """What a request can be about: the metadata, `label`, `class_name` and `image_id`, `(train,)` each."""
    labels = train.labels.cpu().numpy()
    own = {"label": labels, "class_name": np.array(classes)[labels], "image_id": train.image_ids}
    return {**train.columns, **own}


def _where(argument: str, scene: Scene) -> np.ndarray:
    """The rows for which an expression is true; besides the columns, it may name `index`, as in `file:`."""
    columns = metadata_columns(scene.train, scene.classes)
    if "index" not in columns:
        columns["index"] = _source(scene).numbers
    return np.flatnonzero(rows_where(argument, columns))


def _file(argument: str, scene: Scene) -> np.ndarray:
    """The images of a list of ids, or of indices, which count the training images of the source in its own order."""
    if "\0" in argument:
        raise UserError("no file has such a name.")
    source = _source(scene)
    path = Path(argument)
    advice = "write it with numpy.save"
    try:
        path = path.expanduser()
        listed = read_list(path, MARGIN + MOST_ENTRY * len(source.uses))
    except (OSError, RuntimeError) as error:  # the second: of ~nobody there is no home
        raise UserError(f"the file cannot be read ({getattr(error, 'strerror', None) or error}); {advice}.") from error
    except ListError as error:
        kind = "as a list of indices or ids" if path.suffix.lower() in READERS.keys() - {".npy"} else "as a NumPy array"
        raise UserError(f"the file cannot be read {kind} ({error}); {advice}.") from error
    if listed.ndim != 1 or listed.dtype.kind not in "iuU":
        raise UserError(
            f"the file holds {listed.dtype.name} with {listed.ndim} axes; it must hold one array of whole numbers "
            "with one axis, indices of training images, or of texts, their ids."
        )
    values, counts = np.unique(listed, return_counts=True)
    name = "image" if listed.dtype.kind == "U" else "index"
    if len(values) < len(listed):
        raise UserError(f"{name} {shortened(str(values[counts > 1][0]), 200)} is in the file more than once.")
    numbers = _numbers_of(listed, source) if listed.dtype.kind == "U" else listed
    total = len(source.uses)
    outside = numbers[(numbers < 0) | (numbers >= total)]
    if len(outside):
        raise UserError(f"index {outside[0]} is not one of the {total} training images (0 to {total - 1}).")
    _check_uses(numbers, source)
    return np.searchsorted(source.numbers, numbers)


def _source(scene: Scene) -> Source:
    """The images that indices count: those of the split, if it has no other source."""
    train = scene.train
    return train.source or Source(train.image_ids, np.full(len(train), "train"))


def _numbers_of(ids: np.ndarray, source: Source) -> np.ndarray:
    """The indices of images by their ids, int64 `(n,)`."""
    number_of = {str(image_id): number for number, image_id in enumerate(source.image_ids)}
    named = [nfc(str(image_id)) for image_id in ids]
    unknown = [image_id for image_id in named if image_id not in number_of]
    if unknown:
        raise UserError(
            f"{shortened(unknown[0], 200)!r} is the id of none of the {len(number_of)} training images; "
            f"{number_of and next(iter(number_of))!r} is one."
        )
    return np.array([number_of[image_id] for image_id in named], dtype=np.int64)


def _check_uses(numbers: np.ndarray, source: Source) -> None:
    """Raise `UserError` for images of the source's training set that are not trained on."""
    elsewhere = numbers[source.uses[numbers] != "train"]
    if len(elsewhere) == 0:
        return
    first = elsewhere[0]
    use = str(source.uses[first])
    why = (
        f"it is set aside for {'validation' if use == 'validation' else 'testing'}" if use else "--train-size omits it"
    )
    raise UserError(
        f"{len(elsewhere)} of its {len(numbers)} images are not trained on, such as index {first}, "
        f"{source.image_ids[first]} ({why}): take them out of the file."
    )


def _confuse(argument: str, scene: Scene) -> np.ndarray:
    labels = scene.labels
    # By one seed, classes of one size would all lose their images at the same places.
    drawn = [
        _draw(np.flatnonzero(labels == label), argument, scene, FORGET_SEED + label)
        for label in range(len(scene.classes))
    ]
    return np.concatenate(drawn)


def _next_class(indices: np.ndarray, train: Split, classes: Sequence[str]) -> np.ndarray:
    """The labels that images get in place of their own, int64 `(n,)`."""
    return (train.labels.cpu().numpy()[indices] + 1) % len(classes)


_KINDS: dict[str, Callable[[str, Scene], np.ndarray]] = {
    "random": _random,
    "class": _class,
    "group": _group,
    "where": _where,
    "file": _file,
    "confuse": _confuse,
}
