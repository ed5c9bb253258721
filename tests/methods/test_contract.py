"""What every registered method keeps to, whatever it does; a new method is tested by being registered."""

from __future__ import annotations

import ast
import inspect
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from checkpoints.grouped import State
from checkpoints.networks import NETWORKS, build_network
from checkpoints.workers import seed_everything
from data import Recipe, Split, Task, TaskSpec, load
from data.loaders import TensorLoader, run_loaders
from data.task import Request
from evaluation.certification.mechanisms import MECHANISMS
from evaluation.isolation.structure import check_structure, fresh_network
from evaluation.views.history import can_be_drawn
from methods import all_method_handlers
from methods.BaseMethod import CLAIMS, BaseMethod, Between

METHODS = all_method_handlers()
FACTS = {name for name, kind in inspect.get_annotations(BaseMethod).items() if "ClassVar" in str(kind)}
"""The attributes of a method that are no hyper-parameters."""
KIT = Path(inspect.getfile(BaseMethod)).parent.parent

every_method = pytest.mark.parametrize("name", METHODS)


# ----------------------------------------------------------------------------------------------------------------------
# The class
# ----------------------------------------------------------------------------------------------------------------------


@every_method
def test_name_class_and_file_agree(name: str) -> None:
    """`my_idea` is the class `MyIdea` in `methods/MyIdea.py`, so that whoever reads one finds the other."""
    handler = METHODS[name]
    assert issubclass(handler, BaseMethod)
    assert handler.__name__.lower() == name.replace("_", "")
    assert handler.__module__ == f"methods.{handler.__name__}"


@every_method
def test_summary_is_one_sentence(name: str) -> None:
    """The first line of the docstring, which `python main.py list` shows."""
    first, *rest = inspect.cleandoc(METHODS[name].__doc__ or "").splitlines()
    assert first.endswith(".")
    assert 10 < len(first) <= 110
    assert rest[:1] in ([], [""])


@every_method
def test_hyper_parameters_are_typed_and_explained(name: str) -> None:
    """Each has a type, a default of that type and a line of explanation; no other public attribute looks like one."""
    handler = METHODS[name]
    parameters = handler.hyper_parameters()
    for parameter in parameters.values():
        assert type(parameter.default) is parameter.type, parameter
        assert parameter.explanation.endswith("."), parameter
    for attribute, value in vars(handler).items():
        if not attribute.startswith("_") and not callable(value) and not isinstance(value, (staticmethod, classmethod)):
            assert attribute in parameters.keys() | FACTS, f"{attribute} needs a type, to be a hyper-parameter"


@every_method
def test_search_space_is_of_hyper_parameters(name: str) -> None:
    """What is searched exists, has values of its type, and includes the default."""
    handler = METHODS[name]
    for key, space in handler.search_space.items():
        parameter = handler.hyper_parameters()[key]
        if isinstance(space, Between):
            assert parameter.type in (int, float)
            assert space.low < space.high
            assert space.low <= parameter.default <= space.high
            assert space.low > 0 or not space.log
        else:
            assert parameter.default in space.choices
            assert {type(choice) for choice in space.choices} == {parameter.type}


@every_method
def test_what_is_claimed_fits_together(name: str) -> None:
    """Texts are cells of a table. What is certified is guaranteed, and can be recomputed."""
    handler = METHODS[name]
    for text in (handler.guarantee, handler.published_figures):
        assert text == text.strip()
        assert not set(text) & set("|\n")
    assert handler.mechanism in {"", *MECHANISMS}
    if handler.mechanism:
        assert handler.certifies
        assert handler.guarantee
    if "certifies" in vars(handler) and handler.certifies:
        assert handler.mechanism, "name a mechanism, or nobody can recompute its certificates"
    assert handler.deterministic or not handler.leaves_original


@every_method
def test_what_inherits_claims_nothing(name: str) -> None:
    """Another `run` may do anything: a claim has to be made again. What restricts the kit is inherited."""
    parent = METHODS[name]
    heir = type("Heir", (parent,), {"run": BaseMethod.run})
    assert [getattr(heir, claim) for claim in CLAIMS] == [getattr(BaseMethod, claim) for claim in CLAIMS]
    for fact in FACTS.difference(CLAIMS):
        assert getattr(heir, fact) == getattr(parent, fact)


@every_method
def test_facts_are_of_their_type(name: str) -> None:
    """Of that of the default in `BaseMethod`; what is named in them exists."""
    handler = METHODS[name]
    for fact in FACTS:
        assert type(getattr(handler, fact)) is type(getattr(BaseMethod, fact)), fact
    assert set(handler.prepares_with) <= set(handler.hyper_parameters())
    assert handler.values_in_force(handler.tried_with).items() >= handler.tried_with.items()
    assert "history" not in handler.drawings, "series are drawn anyway"


@pytest.mark.parametrize(
    "folder", ["data", "checkpoints", "evaluation", "notebooks", "notebook_utils.py", "benchmarks/pages"]
)
def test_facts_about_methods_stand_in_their_class(folder: str) -> None:
    """Catches a dict or a set elsewhere in the kit that holds facts by name of a method ("forget" is a split, too)."""
    path = KIT / folder
    for file in [path] if path.is_file() else path.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            entries = node.keys if isinstance(node, ast.Dict) else node.elts if isinstance(node, ast.Set) else []
            names = {entry.value for entry in entries if isinstance(entry, ast.Constant)}
            assert not names & (METHODS.keys() - {"forget"}), f"{file}, line {node.lineno}"  # type: ignore[attr-defined]


@every_method
def test_hyper_parameters_can_be_set_as_texts(name: str) -> None:
    """As the command line does: the defaults, written and read back, are the defaults."""
    settings = METHODS[name]().settings()
    assert METHODS[name](**{key: str(value) for key, value in settings.items()}).settings() == settings


@every_method
def test_mistakes_in_hyper_parameters_are_refused(name: str) -> None:
    """An unknown name with the nearest known one; a value of another type with the name."""
    handler = METHODS[name]
    with pytest.raises(ValueError, match="no hyper-parameter 'xyzzy'"):
        handler(xyzzy=1)
    for parameter in handler.hyper_parameters().values():
        with pytest.raises(ValueError, match=f"it has .*{parameter.name}"):
            handler(**{parameter.name + "x": 1})
        if parameter.type is not str:
            with pytest.raises(ValueError, match=f"{parameter.name} takes a value of type {parameter.type.__name__}"):
                handler(**{parameter.name: "nonsense"})


@every_method
def test_imports_nothing_of_the_kit(name: str) -> None:
    """A method must work inside a submission notebook, where there is only what travels."""
    source = inspect.getsource(inspect.getmodule(METHODS[name]))  # type: ignore[arg-type]
    ours = {path.name for path in Path(inspect.getfile(METHODS[name])).parent.parent.iterdir() if path.is_dir()}
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "."]
        for module in modules:
            assert module in TRAVEL or module.split(".")[0] not in ours, module


# ----------------------------------------------------------------------------------------------------------------------
# A run
# ----------------------------------------------------------------------------------------------------------------------


def make_task(
    network: str = "small_cnn", channels: int = 1, size: int = 8, train: int = 41, forget: Any = range(0, 40, 5)
) -> Task:
    """A small task of random images in 4 classes, `i % 4` is the class of image i.

    Of the 33 images to retain, in batches of 16, the last is alone: a network with batch normalisation over one
    pixel, as a ResNet on small images, can't be trained on it.
    """
    generator = torch.Generator().manual_seed(0)

    def split(examples: int) -> Split:
        images = torch.randn(examples, channels, size, size, generator=generator)
        return Split(images, torch.arange(examples) % 4, np.arange(examples).astype(str))

    request = Request("by hand", np.array(forget))
    return Task(TaskSpec(), split(train), split(8), split(8), tuple("abcd"), network, Recipe(), (request,), "random")


class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet with one residual block in each stage and an eighth of the channels: 85,000 weights.

    Its first layers are those of `resnet18`, or for small images those of `resnet18_3x3`.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        if channels > 1 and size < 32:
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(64, classes)

    def _make_layer(self, block: type[BasicBlock], planes: int, *arguments: Any, **more: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 8, *arguments, **more)


@pytest.fixture(autouse=True)
def a_resnet_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is a network that tasks can name: `narrow_resnet`."""
    monkeypatch.setitem(NETWORKS, "narrow_resnet", NarrowResNet)


def quick(name: str, **settings: Any) -> BaseMethod:
    """The method with a single epoch, if it has epochs."""
    handler = METHODS[name]
    return handler(**{"epochs": 1} if "epochs" in handler.hyper_parameters() else {}, **handler.tried_with, **settings)


def unlearn(name: str, task: Task, seed: int = 1, batch_size: int = 16, **settings: Any) -> nn.Module:
    """The network that a run of the method leaves; it began with the weights of seed 0."""
    network = build_network(task, seed=0).eval()
    loaders = run_loaders(task, seed, batch_size)
    seed_everything(seed)
    run(quick(name, **settings), network, loaders)
    return network


Loaders = tuple[TensorLoader, TensorLoader, TensorLoader]


def run(method: BaseMethod, network: nn.Module, loaders: Loaders) -> object:
    """What its `run` returns, if it leaves alone what it is given and no business of its own."""
    before = surroundings(network, loaders)
    answer: object = method.run(network, *loaders)  # type: ignore[func-returns-value]
    assert surroundings(network, loaders) == before
    return answer


def surroundings(network: nn.Module, loaders: Loaders) -> dict[str, Any]:
    """Generators that no method has a need of, the seed of the one they draw from, the loaders, what can be trained."""
    return {
        "random": random.getstate(),
        "numpy": pickle.dumps(np.random.get_state()),
        "torch": torch.initial_seed(),
        "loaders": [(loader.dataset, len(loader.dataset), loader.batch_size) for loader in loaders],
        "requires_grad": {name: weight.requires_grad for name, weight in network.named_parameters()},
    }


@pytest.mark.parametrize(
    ("what", "mistake"),
    [
        ("random", lambda network: random.random()),
        ("numpy", lambda network: np.random.rand()),
        ("torch", lambda network: torch.manual_seed(5)),
        ("requires_grad", lambda network: next(network.parameters()).requires_grad_(False)),
    ],
)
def test_mistakes_are_noticed(what: str, mistake: Callable[[nn.Module], object]) -> None:
    """Those that `surroundings` is for: a run of such a method is no run that passes."""

    class Careless(BaseMethod):
        def run(self, net: nn.Module, *loaders: Any) -> None:
            mistake(net)

    task = make_task()
    seed_everything(1)
    with pytest.raises(AssertionError, match=what):
        run(Careless(), build_network(task, seed=0), run_loaders(task, 1))


def differing(one: State, other: State) -> list[str]:
    """The names of the weights that differ."""
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.fixture(autouse=True)
def same_state_afterwards() -> Iterator[None]:
    """Methods leave the process as it was: gradients on, float32, the same number of threads, no global hooks."""
    before = process_state()
    yield
    after = process_state()
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    assert after == before


def process_state() -> tuple[Any, ...]:
    """What a method might change for all that come after it."""
    settings = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device())
    return (*settings, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())


TRAVEL = ("methods.BaseMethod", "methods.initialisation")
"""What a method may import of the kit: a notebook does without the one, and takes the other along."""


@every_method
@pytest.mark.parametrize(
    ("network", "channels", "size"),
    [
        ("small_cnn", 1, 8),
        ("small_cnn", 3, 8),
        ("strided_cnn", 3, 8),
        pytest.param("all_cnn", 3, 8, marks=pytest.mark.slow),
        ("mlp", 1, 8),
        pytest.param("narrow_resnet", 3, 32, marks=pytest.mark.slow),
        pytest.param("narrow_resnet", 3, 8, marks=pytest.mark.slow),
    ],
)
def test_works_with_every_network(name: str, network: str, channels: int, size: int) -> None:
    """With and without batch normalisation, grey and coloured: what it leaves passes the grader's checks.

    Those are: the same architecture, no hooks, finite weights. It is in eval mode too, as the competition's
    baseline leaves it, and has changed (or has not, if it does nothing).
    """
    task = make_task(network, channels, size, train=21, forget=range(0, 20, 5))
    before = build_network(task, seed=0).state_dict()
    left = unlearn(name, task, batch_size=8)  # two batches to retain, and a last one of one image, as above
    check_structure(build_network(task), left, name)
    fresh_network(task, left.state_dict(), name)
    assert not any(module.training for module in left.modules())
    assert bool(differing(before, left.state_dict())) != METHODS[name].leaves_original


@every_method
@pytest.mark.parametrize(
    ("case", "train", "forget", "network"),
    [
        ("a last batch of one image", 40, range(7), "small_cnn"),  # 33 to retain, in batches of 16
        ("less to forget than a batch", 40, [3], "small_cnn"),
        pytest.param("less to forget than a batch", 40, [3], "narrow_resnet", marks=pytest.mark.slow),
        ("less to retain than a batch", 20, range(10), "small_cnn"),
        ("more to forget than to retain", 60, range(50), "small_cnn"),
        ("a whole class", 40, range(0, 40, 4), "small_cnn"),
        pytest.param("a whole class", 40, range(0, 40, 4), "narrow_resnet", marks=pytest.mark.slow),
    ],
)
def test_works_with_every_forget_set(name: str, case: str, train: int, forget: Any, network: str) -> None:
    """Whatever the sizes are: no division by zero, no empty batch, no wait for a class that is not there."""
    task = make_task(network, train=train, forget=forget)
    left = unlearn(name, task)
    check_structure(build_network(task), left, name)
    fresh_network(task, left.state_dict(), name)


@pytest.mark.slow
@every_method
def test_works_on_the_default_task(name: str) -> None:
    """On real digits, in batches of the size that the grader hands out."""
    task = load(TaskSpec("digits", train_size=60))
    left = unlearn(name, task, batch_size=64)
    check_structure(build_network(task), left, name)
    fresh_network(task, left.state_dict(), name)


@every_method
@pytest.mark.parametrize("network", ["small_cnn", pytest.param("narrow_resnet", marks=pytest.mark.slow)])
def test_a_run_is_a_function_of_its_seed(name: str, network: str) -> None:
    """The same seed gives the same bits, and another seed others: N runs must not be N copies."""
    # More than a batch, whatever its size, so that the order matters.
    task = make_task(network, train=280, forget=range(140))
    first, again, other = (unlearn(name, task, seed).state_dict() for seed in (1, 1, 2))
    assert differing(first, again) == []
    if not METHODS[name].deterministic:
        assert differing(first, other)


@pytest.mark.parametrize("name", [name for name in METHODS if "freeze_bn" in METHODS[name].hyper_parameters()])
def test_batch_normalisation_can_be_frozen(name: str) -> None:
    """With `freeze_bn` all running statistics keep their bits, so that no forget batch is in them; without, they move.

    (Those of layers whose weights move, as some methods train a few layers only.) Weights move either way. Catches an
    option that nobody reads, and one that some of the passes overlook.
    """
    task = make_task()
    before = build_network(task, seed=0).state_dict()
    statistics = {key for key in before if "running" in key or "num_batches" in key}
    frozen, free = (differing(before, unlearn(name, task, freeze_bn=frozen).state_dict()) for frozen in (True, False))
    assert frozen
    assert not statistics & set(frozen)
    trained = {key.rpartition(".")[0] for key in free}
    assert {key for key in statistics if key.rpartition(".")[0] in trained} <= set(free)
    assert statistics & set(free)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].drawings])
def test_notes_can_be_drawn_as_declared(name: str) -> None:
    """Catches a misspelt name, which would leave the panel out, and a note of another kind."""
    task = make_task()
    method = quick(name)
    run(method, build_network(task, seed=0).eval(), run_loaders(task, 1))
    for note, drawing in method.drawings.items():
        assert can_be_drawn(method.notes[note], drawing), note


@every_method
def test_leaves_the_data_alone(name: str) -> None:
    """Images and labels of all three loaders are what they were. Catches augmentation in place."""
    task = make_task()
    loaders = run_loaders(task, 1, batch_size=16)
    before = [everything(loader) for loader in loaders]
    run(quick(name), build_network(task, seed=0).eval(), loaders)
    for loader, (images, labels) in zip(loaders, before, strict=True):
        after = everything(loader)
        assert torch.equal(after[0], images)
        assert torch.equal(after[1], labels)


def everything(loader: TensorLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels of a loader, in the order of its data set."""
    batch = loader.dataset.batch(range(len(loader.dataset)))
    return batch["image"].clone(), batch["age_group"].clone()


@every_method
def test_the_return_value_is_nothing(name: str) -> None:
    """It is ignored, so that a method which returns a new network instead of changing the given one would fail."""
    task = make_task()
    assert run(quick(name), build_network(task, seed=0).eval(), run_loaders(task, 1)) is None
