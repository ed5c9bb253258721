"""Shared by the tests that grade."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from checkpoints.workers import Workers
from evaluation.isolation.handle import room_workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """One process."""
    with room_workers(1) as pool:
        yield pool
