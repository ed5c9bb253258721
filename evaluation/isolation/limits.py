"""How much a run may take of everything."""

from __future__ import annotations

import os
from dataclasses import dataclass


def _of_memory(share: float) -> int:
    """A share of the machine's memory, in bytes."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * share)


@dataclass(frozen=True)
class Limits:
    """How patient the grader is, and what else a run may not exceed. Nobody but a test needs other values."""

    patience: float = 10.0
    """On the CPU, a run that only waits is killed after this many times its budget on the wall clock ..."""
    more_patience: float = 10.0
    """... and this many seconds more."""
    margin: float = 60.0
    """Seconds that a room may take to tell of a run, beyond those that the run may take."""
    prepare_seconds: float = 600.0
    """What a method prepares for an original may take so long, ..."""
    prepare_budgets: float = 500.0
    """... or this many budgets if that is more."""
    attempts: int = 3
    """How often a run may be killed for its time before it has failed: on a busy machine the same run takes longer."""
    log_bytes: int = 16 << 20
    """What a run may print."""
    file_bytes: int = 1 << 30
    """The largest file that a run may write."""
    memory_bytes: int = _of_memory(4 / 5)
    """What a run and its child processes may hold together, what they share counted once."""
    processes: int = 64
    """Child processes of a run, and theirs, at a time."""
    threads: int = 4096
    """Threads of all these."""
    answer_bytes: int = _of_memory(1 / 16)
    """Weights and `memory` that a run may leave."""
    notes_bytes: int = 16 << 20
    """Notes that a run may leave."""

    def wall_seconds(self, budget: float | None, device: str) -> float | None:
        """Seconds on the wall clock that a run with this budget may take; None: as many as it likes."""
        if budget is None:
            return None
        return self.patience * budget + self.more_patience if device == "cpu" else budget


LIMITS = Limits()
"""Those of every grading."""
