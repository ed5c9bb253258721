"""Forget requests: from what a user writes to the training images that are to be forgotten.

| request | forgets |
|---|---|
| `random:0.1`, `random:60` | a share, or a number, of the training images, drawn uniformly at random |
| `class:3`, `class:airplane` | all images of a class, by name or index (a name comes first, if both fit) |
| `class:3:0.5`, `class:3:20` | a share, or a number, of the images of a class, at random |
| `group:person_id:15` | all images of 15 whole groups of a metadata column |
| `where:camera == "A" and year <= 2016` | the images for which an expression over the metadata is true |
| `file:indices.npy` | the training indices in a NumPy file |
| `confuse:0.1`, `confuse:20` | a share, or a number, of the images of each class, mislabelled as the next class |

docs/requests.md tells users more; `data/where.py` has the language of `where:`. Random requests depend on a fixed seed
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
from pathlib import Path

import numpy as np

from data.arrays import ArrayError, read_array
from data.errors import UserError, shortened, unknown_name
from data.task import Request, Split
from data.where import rows_where

FORGET_SEED = 43
"""Seed of the random requests. A constant, like that of the splits."""

WIDEST, MARGIN = 8, 1 << 16
"""Bytes of an index in a file, at most, and of all else in it: a file of indices that is larger has some twice."""

_NOTHING = np.empty(0, dtype=np.int64)


def parse_requests(texts: Sequence[str], train: Split, classes: Sequence[str]) -> tuple[Request, ...]:
    """Requests that arrive in this order; no two of them may name the same image.

    Raises `UserError` as `parse_request` does.
    """
    requests: list[Request] = []
    forgotten = _NOTHING
    for text in texts:
        requests.append(parse_request(text, train, classes, forgotten))
        forgotten = np.concatenate([forgotten, requests[-1].indices])
    return tuple(requests)


def merge_requests(requests: Sequence[Request]) -> Request:
    """One request for all that several name."""
    indices = np.sort(np.concatenate([request.indices for request in requests]))
    return Request(" + ".join(request.text for request in requests), indices)


def parse_request(text: str, train: Split, classes: Sequence[str], forgotten: np.ndarray = _NOTHING) -> Request:
    """One request, after those that have `forgotten` some training indices, int64 `(n,)`, already.

    Raises `UserError` when the text cannot be understood, when it names no image, an image that does not
    exist or one that is forgotten already, or when nothing would be left to retain.
    """
    kind, _, argument = text.partition(":")
    if kind not in _KINDS:
        raise unknown_name("kind of forget request", kind, _KINDS)
    try:
        if not argument.strip():
            raise UserError(f"something must follow '{kind}:'.")
        indices = np.sort(_KINDS[kind](argument.strip(), train, classes, forgotten)).astype(np.int64)
        _check(indices, len(train), forgotten)
    except UserError as error:
        raise UserError(f"Forget request {shortened(text, 300)!r}: {error}") from error
    return Request(text, indices, _next_class(indices, train, classes) if kind == "confuse" else None)


def _check(indices: np.ndarray, train_size: int, forgotten: np.ndarray) -> None:
    if len(indices) == 0:
        raise UserError("it names no training image; widen it.")
    again = np.intersect1d(indices, forgotten)
    if len(again):
        raise UserError(
            f"{len(again)} of its {len(indices)} images are forgotten by an earlier request already "
            f"(index {again[0]} for example); requests must not overlap."
        )
    if len(indices) + len(forgotten) >= train_size:
        raise UserError("nothing would be left to retain; forget less.")


def _random(argument: str, train: Split, classes: Sequence[str], forgotten: np.ndarray) -> np.ndarray:
    return _draw(np.arange(len(train)), argument, forgotten)


def _class(argument: str, train: Split, classes: Sequence[str], forgotten: np.ndarray) -> np.ndarray:
    labels = train.labels.cpu().numpy()
    name, colon, share = argument.rpartition(":")
    if not colon or _is_class(argument, classes):
        return np.flatnonzero(labels == _label(argument, classes))
    return _draw(np.flatnonzero(labels == _label(name, classes)), share, forgotten)


def _is_class(name: str, classes: Sequence[str]) -> bool:
    return name in classes or (_is_whole(name) and int(name) < len(classes))


def _is_whole(text: str) -> bool:
    """Whether it is a whole number without a sign, of a size that images can have."""
    return text.isascii() and text.isdigit() and len(text) < 19


def _label(name: str, classes: Sequence[str]) -> int:
    """The label of a class that is given by name or, if there is no such name, by index."""
    if not _is_class(name, classes):
        raise unknown_name("class", name, classes)
    return list(classes).index(name) if name in classes else int(name)


def _draw(candidates: np.ndarray, how_many: str, forgotten: np.ndarray, seed: int = FORGET_SEED) -> np.ndarray:
    """Some of the candidates that are not forgotten yet, uniformly at random."""
    count = _count(how_many, len(candidates))
    # RandomState rather than default_rng: NumPy promises that its streams never change.
    order = np.random.RandomState(seed).permutation(candidates)
    free = order[~np.isin(order, forgotten)]
    if count > len(free):
        raise UserError(f"{count} images are asked for and {len(free)} are there; ask for fewer.")
    return free[:count]


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


def _group(argument: str, train: Split, classes: Sequence[str], forgotten: np.ndarray) -> np.ndarray:
    """The first groups in sorted order of their ids, as in the competition.

    There, the forget set was the first split of scikit-learn's `LeavePGroupsOut(n_groups=15)`: the 15 persons
    with the smallest ids. Images without an id (an empty cell) belong to no group.
    """
    column, colon, count = argument.rpartition(":")
    columns = metadata_columns(train, classes)
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


def _where(argument: str, train: Split, classes: Sequence[str], forgotten: np.ndarray) -> np.ndarray:
    """The rows for which an expression is true; besides the columns, it may name `index`, as in `file:`."""
    columns = metadata_columns(train, classes)
    if "index" not in columns:
        columns["index"] = np.arange(len(train))
    return np.flatnonzero(rows_where(argument, columns))


def _file(argument: str, train: Split, classes: Sequence[str], forgotten: np.ndarray) -> np.ndarray:
    if "\0" in argument:
        raise UserError("no file has such a name.")
    try:
        indices = read_array(Path(argument), most_bytes=MARGIN + WIDEST * len(train))
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror}); write it with numpy.save.") from error
    except ArrayError as error:
        raise UserError(f"the file cannot be read as a NumPy array ({error}); write it with numpy.save.") from error
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise UserError(
            f"the file holds {indices.dtype.name} with {indices.ndim} axes; it must hold one array of whole numbers "
            "with one axis, the training indices."
        )
    outside = indices[(indices < 0) | (indices >= len(train))]
    if len(outside):
        raise UserError(f"index {outside[0]} is not one of the {len(train)} training images (0 to {len(train) - 1}).")
    values, counts = np.unique(indices, return_counts=True)
    if len(values) < len(indices):
        raise UserError(f"index {values[counts > 1][0]} is in the file more than once.")
    return indices


def _confuse(argument: str, train: Split, classes: Sequence[str], forgotten: np.ndarray) -> np.ndarray:
    labels = train.labels.cpu().numpy()
    # By one seed, classes of one size would all lose their images at the same places.
    drawn = [
        _draw(np.flatnonzero(labels == label), argument, forgotten, FORGET_SEED + label)
        for label in range(len(classes))
    ]
    return np.concatenate(drawn)


def _next_class(indices: np.ndarray, train: Split, classes: Sequence[str]) -> np.ndarray:
    """The labels that images get in place of their own, int64 `(n,)`."""
    return (train.labels.cpu().numpy()[indices] + 1) % len(classes)


_KINDS: dict[str, Callable[[str, Split, Sequence[str], np.ndarray], np.ndarray]] = {
    "random": _random,
    "class": _class,
    "group": _group,
    "where": _where,
    "file": _file,
    "confuse": _confuse,
}
