"""Networks in files of the user's own: what a file may say, what is wrong with one, and which bank it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from checkpoints.networks import build_network, builder_of
from checkpoints.pool import Pool
from checkpoints.together import way_of
from checkpoints.trial import try_network
from data import Task, TaskSpec, UserError, load
from data.own_network import pinned, read_own
from evaluation.isolation.workplace import from_message, to_message

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))"
GOOD = f"{HEAD}def net(channels, size, classes):\n    return {LINEAR}\n"

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file `net.py`; what `--network` takes, for the name `net` in it."""

    def file(text: str) -> str:
        (tmp_path / "net.py").write_text(text)
        return f"{tmp_path}/net.py:net"

    return file


def task_of(network: str) -> Task:
    """The digits with this network."""
    return load(TaskSpec("digits", train_size=40, network=network))


# ----------------------------------------------------------------------------------------------------------------------
# What it may be
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"def net(channels, size, classes):\n    return {LINEAR}",
        f"def net(a, b, c):\n    channels, size, classes = a, b, c\n    return {LINEAR}",
        f"def net(size, classes, channels, width=3):\n    return {LINEAR}",
        f"net = lambda channels, size, classes, *, bias=True: {LINEAR}",
        "def net(outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))",
        "def net(width=16, classes=10):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))",
        "def net(*, num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))",
        "from functools import partial\n"
        "net = partial(lambda w, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.Linear(w, classes)), 7)",
        "class net(nn.Sequential):\n    def __init__(self, channels, size, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(channels * size * size, classes))",
        "from checkpoints.networks import small_cnn as net",
        "from dataclasses import dataclass\n@dataclass\nclass Sizes:\n    pixels: int = 64\n"
        "def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(Sizes().pixels, classes))",
    ],
)
def test_classes_and_functions_are_called_by_their_signature(text: str, write: Write) -> None:
    """With channels, size and classes, by name or in this order, or with classes alone."""
    task = task_of(write(f"{HEAD}{text}\n"))
    assert task.network == "net.py:net"
    assert build_network(task, 1)(task.train.images[:3]).shape == (3, 10)
    one, again = (build_network(task, 1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert builder_of(task) is builder_of(task_of(str(task.spec.network)))


WRONG: dict[str, tuple[str, str]] = {
    "no such name": ("def other(classes): pass", r"no class or function 'net\.py:net': .* net\.py:other"),
    "empty": ("", r"net\.py has no 'net', and no class or function at all: a network is a class or function of"),
    "syntax": ("def net(:", r"net\.py is no Python: .* \(line 4\)"),
    "raises": ("1 / 0", r"net\.py can't be executed: ZeroDivisionError: division by zero \(line 4 of net\.py\)"),
    "exits": ("raise SystemExit(3)", r"net\.py can't be executed: SystemExit: 3 \(line 4 of net\.py\)"),
    "number": ("net = 5", r"net\.py:net is a int, and can't be called"),
    "built": ("net = nn.Linear(3, 4)", r"net\.py:net is a network that is built already, and can't be called"),
    "arguments": ("def net(a, b): pass", r"net\.py:net takes \(a, b\): a network is a class or function of"),
    "none": ("def net(): pass", r"net\.py:net takes \(nothing\)"),
    "fails": (
        "def net(classes):\n    return nn.Linear(-1, 2)[3]",
        r"can't be built for images of 1 x 8 x 8 .*line 5 of",
    ),
    "no network": ("def net(classes): return 3", r"gives a int, and no network: it has to be a torch\.nn\.Module"),
    "no weights": ("def net(classes): return nn.Flatten()", r"has no weights: there is nothing to train"),
    "lazy": ("def net(classes): return nn.LazyLinear(classes)", r"has a weight without a shape \(weight\)"),
    "NaN": (
        "def net(classes):\n    n = nn.Linear(8, 8)\n    nn.init.constant_(n.bias, float('nan'))\n    return n",
        r"starts with NaN or infinite weights in bias",
    ),
    "NaN logits": (
        "class net(nn.Linear):\n    def __init__(self, classes): super().__init__(64, classes)\n"
        "    def forward(self, x): return super().forward(x.flatten(1)) / 0",
        r"gives NaN or infinite logits before it is trained",
    ),
    "other random numbers": (
        "import random\ndef net(classes):\n    n = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
        "    nn.init.constant_(n[1].bias, random.random())\n    return n",
        r"starts with other weights \(1\.bias\) each time that it is built with one seed",
    ),
    "images": (
        "def net(classes): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(9, classes))",
        r"can't compute with images of 1 x 8 x 8 \(channels, height, width\), which may be too small .* RuntimeError",
    ),
    "small": (
        "def net(classes): return nn.Sequential(nn.Conv2d(1, 4, 11), nn.Flatten(), nn.Linear(9, classes))",
        r"which may be too small for it: RuntimeError: .*Kernel size can't be greater",
    ),
    "shape": (
        "def net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))",
        r"gives a tensor of the shape \(2, 7\): its forward\(\) has to give logits, \(2, 10\) for 2 images",
    ),
    "pair in training": (
        "class net(nn.Linear):\n    def __init__(self, classes): super().__init__(64, classes)\n"
        "    def forward(self, x):\n        y = super().forward(x.flatten(1))\n"
        "        return (y, y) if self.training else y",
        r"gives a tuple, and no tensor",
    ),
    "neighbour": ("import neighbour\ndef net(classes): pass", r"net\.py imports neighbour, which is not installed"),
    "relative": ("from . import neighbour\ndef net(classes): pass", r"net\.py imports a file beside it"),
    "inside": ("def net(classes):\n    from main import main", r"net\.py imports main, which is not installed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_a_sentence(name: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, whatever it is, and before anything is trained."""
    (tmp_path / "neighbour.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    text, sentence = WRONG[name]
    with pytest.raises(UserError, match=sentence) as caught:
        build_network(task_of(write(f"{HEAD}{text}\n")))
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"


def test_a_trial_leaves_random_numbers_alone(write: Write) -> None:
    """And is made once: the second time costs nothing."""
    task = task_of(write(GOOD))
    before = torch.get_rng_state()
    build_network(task, 1)
    assert torch.equal(torch.get_rng_state(), before)
    hits = try_network.cache_info().hits
    build_network(task, 2)
    assert try_network.cache_info().hits == hits + 1


# ----------------------------------------------------------------------------------------------------------------------
# The file
# ----------------------------------------------------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """Each is a sentence that says what to do."""
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    (tmp_path / "large.py").write_text("#" * 1_000_001)
    (tmp_path / "net.py").write_text("class A: pass\nclass Net: pass\n")
    for text, sentence in (
        ("nothing.py:Net", r"There is no file .*nothing\.py: name the file of the network"),
        ("net.py", r"Say which class or function of .*net\.py is the network: net\.py:Net, say"),
        ("net.py:", r"net\.py:Net, say"),
        ("bytes.py:Net", r"is no text in UTF-8"),
        ("large.py:Net", r"has 1,000,001 bytes: the file of a network has at most 1,000,000"),
        (".py:Net", r"There is no file"),
    ):
        with pytest.raises(UserError, match=sentence):
            task_of(f"{tmp_path}/{text}")
    for text in ("net.txt:Net", "resnet:18", "torch:resnet18"):
        with pytest.raises(UserError, match="There is no network"):
            build_network(task_of(text))


def test_the_text_decides_the_bank(write: Write, tmp_path: Path) -> None:
    """An edited network is another; one that is moved or renamed is the same; other names in one file are others."""
    task = task_of(write(GOOD))
    moved = tmp_path / "elsewhere" / "other.py"
    moved.parent.mkdir()
    moved.write_bytes(GOOD.replace("\n", "\r\n").encode("utf-8-sig"))
    other = task_of(f"{moved}:net")
    assert (other.network, other.fingerprint) == ("other.py:net", task.fingerprint)
    assert Pool(other, "original").fingerprint == Pool(task, "original").fingerprint
    edited = task_of(write(f"{GOOD}# another\n"))
    twice = write(f"{GOOD}again = net\n")
    others = {edited.fingerprint, task_of(twice).fingerprint, task_of(twice.replace(":net", ":again")).fingerprint}
    assert len(others | {task.fingerprint}) == 4


def test_networks_of_the_kit_keep_their_fingerprints() -> None:
    """Banks that exist are found."""
    assert load(TaskSpec("digits")).fingerprint == load(TaskSpec("digits", network="small_cnn")).fingerprint
    assert load(TaskSpec("digits")).network_source is None


def test_the_path_is_a_whole_one(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a spec is made, it means the same elsewhere."""
    write(GOOD)
    monkeypatch.chdir(tmp_path)
    spec = TaskSpec("digits", network="./net.py:net")
    monkeypatch.chdir("/")
    assert spec.network == f"{tmp_path}/net.py:net"
    assert replace(spec, train_size=40).network == spec.network
    assert TaskSpec(network="small_cnn").network == "small_cnn"


def test_an_edit_is_noticed(write: Write) -> None:
    """What the command line makes of the text holds for the file as it was."""
    text = write(GOOD)
    pin = pinned(text)
    assert pinned(pin) == pin
    assert read_own(pin).source == GOOD
    assert task_of(pin).fingerprint == task_of(text).fingerprint
    write(f"{GOOD}# another\n")
    with pytest.raises(UserError, match=r"net\.py has been edited since: undo that, or name it again"):
        task_of(pin)
    assert pinned(text) != pin


def test_a_room_is_given_the_text(write: Write, tmp_path: Path) -> None:
    """It builds the network without the file, and is told of no path."""
    task = task_of(write(GOOD))
    message = to_message(task)
    (tmp_path / "net.py").unlink()
    assert str(tmp_path) not in repr(message.facts)
    there = from_message(message, "cpu")
    one, other = build_network(task, 3).state_dict(), build_network(there, 3).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_ways_are_found_for_own_networks(write: Write) -> None:
    """As for the kit's."""
    assert way_of(task_of(write(GOOD)), 3).name == "grouped"
    text = (
        f"{HEAD}def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, classes))\n"
    )
    way = way_of(task_of(write(text)), 3)
    assert way.name == "stacked"
    assert isinstance(build_network(task_of(write(text))), nn.Module)
