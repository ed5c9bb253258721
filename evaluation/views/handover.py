"""One model, or one before and after unlearning, as the command line prints it."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from data.texts import printable
from evaluation.handover.record import HandoverRecord, Look
from evaluation.texts import counted
from evaluation.views.terminal import make_screen

CAPTION = "Accuracies; and the share of the forget set that an attack by confidence takes for images never seen."


def show_handover(record: HandoverRecord) -> None:
    """What was done, in a line for each request, and the model before and after."""
    screen = make_screen()
    name = record.method if record.tuned_trials is None else f"{record.method} (tuned)"
    for step in record.steps:
        images, seconds = counted(step.images, "image"), f"{step.seconds:.2g} s"
        screen.print(
            f"{name}: {printable(step.request, 100)}, {images} forgotten in {seconds}; "
            f"weights changed by {step.drift:.2g} of their length"
        )
    show_looks({"before": record.before, "after": record.after})


def show_looks(looks: Mapping[str, Look]) -> None:
    """A row for each model."""
    table = Table("", "forget", "retain", "validation", "test", "unseen", box=None, pad_edge=False)
    for name, look in looks.items():
        found = look.accuracies
        shares = (found.forget, found.retain, found.validation, found.test)
        attack = None if look.membership is None else look.membership["confidence"]
        unseen = "-" if attack is None else f"{100 * attack.efficacy:.1f} %"
        table.add_row(printable(name, 40), *(f"{100 * share:.1f} %" for share in shares), unseen)
    screen = make_screen()
    for part in (table, CAPTION):
        screen.print(part)
