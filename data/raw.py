"""A data set as its source holds it: integer pixels, before anything is split, normalised or forgotten."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

PARTS = ("train", "validation", "test")
"""The parts into which a source may have divided its images already."""


@dataclass(frozen=True, eq=False)
class RawData:
    """All images of a source, in the order of their ids.

    `pixels` uint8 `(n, C, H, W)`; `labels` int64 `(n,)`, an index into `classes`; `image_ids` str `(n,)`,
    unique; `parts` str `(n,)`, one of `PARTS`, or "" throughout when the source is one undivided set;
    `columns`, the metadata of each image by column name, int64, float64, bool or str `(n,)` each; `remarks`, what the
    user should know of the source;
    `content_sha256`, the `content_digest` of pixels and labels.
    """

    pixels: np.ndarray
    labels: np.ndarray
    image_ids: np.ndarray
    parts: np.ndarray
    classes: tuple[str, ...]
    content_sha256: str
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def content_digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256, in hexadecimal, of the shape of the pixels, their bytes, and the labels."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return digest.hexdigest()
