"""A method that takes a batch for a tuple is told that it is a dict; where it may have been, the hint says "if"."""

from __future__ import annotations

import linecache
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data import TaskSpec, load
from data.loaders import TensorLoader, run_loaders
from evaluation.isolation.hints import HINT, LONGEST, complaint_of, hint_for

TAKEN_FOR_SOMETHING_ELSE = [
    "for x, y in loader: pass",
    "for i, (x, y) in enumerate(loader): pass",
    "for i, (x, y) in enumerate(tqdm(loader)): pass",
    "for (x, y), (u, v) in zip(loader, loader): pass",
    "for batch, (x, y) in zip(loader, loader): pass",
    "for (x,\n     y) in loader:\n    pass",
    "for a, b, c, d, e in loader: pass",
    "[x for x, y in loader]",
    "{x: y for batch in loader for x, y in [batch]}",
    "dict(tuple(x for i, (x, y) in enumerate(loader)))",
    "images = torch.cat([\n    x\n    for x, y in loader\n])",
    "for batch in loader:\n    x, y = batch",
    "for batch in loader:\n    if len(batch):\n        x, y = batch",
    "for x, y in next(iter(loader)): pass",
    "x, y = next(iter(loader))",
    "it = iter(loader)\nx, y = next(it)",
    "it = itertools.cycle(loader)\nx, y = next(it)",
    "batches = list(loader)\nfor x, y in batches: pass",
    "x, y = loader.dataset[0]",
    "for x, y in loader.dataset: pass",
    "own = DataLoader(loader.dataset, 8)\nx, y = next(iter(own))",
    "holder.loader = loader\nfor x, y in holder.loader: pass",
    "for batch in loader: batch[0]",
    "for batch in loader: batch[-1]",
    "for batch in loader: batch[:2]",
    "i = 0\nfor batch in loader: batch[i]",
    "next(iter(loader))[0]",
    "list(loader)[0][0]",
    "[batch[1] for batch in loader]",
    "torch.stack([sample[0] for sample in loader.dataset])",
    'for batch in loader: batch["label"]',
    'for batch in loader: batch["image"], batch["labels"]',
    "for batch in loader: batch.to('cpu')",
    "for batch in loader: batch.image",
    "for batch in loader: x, y = [part.to('cpu') for part in batch]",
    "for batch in loader: x, y, *_ = map(lambda part: part.to('cpu'), batch)",
    "for x, y, z in loader: x.to('cpu')",
    "for x, y, z in loader: net(x)",
    "for batch in loader: net(batch)",
    "for batch in loader: net[1](batch)",
    'for batch in loader: F.cross_entropy(net(batch["image"]), batch)',
    "for batch in loader: batch * 2",
    "batch = next(iter(loader))\nx, y = batch.values()",
    'loaders = {"retain": loader}\nfor x, y in loaders["retain"]: pass',
    "list(map(lambda batch: batch[0], loader))",
    "def step(batch):\n    x, y = batch\nfor batch in loader: step(batch)",
]
IN_DOUBT = [
    "for x, y in [(1, 2, 3)]: pass",
    "for batch in loader: x, y = 1, 2, 3",
    'for batch in loader: x, y = batch["image"].shape',
    'for batch in loader: x, y = net(batch["image"])[0].shape, 1, 2',
    "batch = next(iter(loader))\nfor x, y in [(1, 2, 3)]: pass",
    'batch = next(iter(loader))\nfor x, y in zip(batch["image"], batch["image"], batch["image"]): pass',
    "pairs = lambda loader: [(1, 2, 3)]\nfor x, y in pairs(loader): pass",
    "for x, y in DataLoader([(1, 2, 3)], 1): pass",
    "own = DataLoader(loader.dataset, 8, collate_fn=lambda samples: (1, 2, 3))\nfor x, y in own: pass",
    'counts = {}\nfor batch in loader: counts[int(batch["age_group"][0])]',
    'counts, name = {}, "image"\nfor batch in loader: counts[0], batch[name]',
    'counts = {}\nfor batch in loader: counts["label"] += batch["image"]',
    "{}[0]",
    'for batch in loader: print("batch of " + len(batch))',
    'for batch in loader: print("a" + 3, batch)',
]
"""The errors are those of the first list, but not about a batch. Hence the "if" of the hint."""
OTHER_ERRORS = [
    "for x, y, z in zip(loader, loader): pass",
    "for batch in loader: net.dropout",
    "for batch in loader: None.to('cpu')",
    'for batch in loader: batch["image_id"].to("cpu")',
    'for batch in loader: net(batch["image_id"])',
    'for batch in loader: net[1](batch["image"].flatten(1)[:, 1:])',
    'for batch in loader: net(batch["image"], 1)',
    "len({}, 1)",
    "{} + 1",
    "raise ValueError('too many values to unpack, I say')",
    "raise KeyError",
    'sums = {}\nfor batch in loader: sums["image"] += batch["image"]',
    "raise SystemExit",
]


@pytest.fixture(scope="module")
def loader() -> TensorLoader:
    """One of a run, over a few digits."""
    task = load(TaskSpec("digits", forget=("random:12",), train_size=60, recipe=(("epochs", 2), ("batch_size", 16))))
    return run_loaders(task, 0)[0]


def error_of(body: str, loader: TensorLoader) -> BaseException:
    """What a method with this body raises. It is in a file as far as Python can tell, and a function in it."""
    text = "import itertools\nfrom torch.utils.data import DataLoader\ntqdm = iter\n"
    text += f"def run(net, loader, holder):\n{textwrap.indent(body, '    ')}\n"
    name = f"<method {hash(body)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    place = {"torch": torch, "F": F}
    exec(compile(text, name, "exec"), place)  # the statement is what is tested
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        place["run"](net, loader, nn.Module())  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize("body", [*TAKEN_FOR_SOMETHING_ELSE, *IN_DOUBT])
def test_a_batch_taken_for_something_else(body: str, loader: TensorLoader) -> None:
    """One sentence says what it is, whatever error Python makes of it."""
    error = error_of(body, loader)
    assert hint_for(error) == HINT, repr(error)
    assert complaint_of(error).startswith(f"{type(error).__name__}: ")
    assert complaint_of(error).endswith(f"; {HINT}")
    assert "\n" not in complaint_of(error)
    assert len(complaint_of(error)) <= LONGEST + len(HINT) + 2


@pytest.mark.parametrize("body", OTHER_ERRORS)
def test_other_errors_are_told_as_they_are(body: str, loader: TensorLoader) -> None:
    """Errors of the same types that can't be about a batch, though one is nearby."""
    error = error_of(body, loader)
    assert hint_for(error) is None, repr(error)
    assert complaint_of(error) == f"{type(error).__name__}: {error}"
