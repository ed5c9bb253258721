"""What every registered method keeps to, whatever it does; a new method is tested by being registered."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints.grouped import State
from checkpoints.networks import build_network
from checkpoints.workers import seed_everything
from data import Recipe, Split, Task, TaskSpec, load
from data.loaders import TensorLoader, run_loaders
from data.task import Request
from evaluation.run import fresh_network
from methods import all_method_handlers
from methods.BaseMethod import BaseMethod, Between

METHODS = all_method_handlers()
LEAVES_WEIGHTS = {"do_nothing"}
"""Methods that are to change nothing."""
WITHOUT_CHANCE = LEAVES_WEIGHTS | {"ssd", "linear_filtration"}
"""Methods in which nothing is random, not even the order of batches: all their runs are equal, and F is 0."""
EAGER = {"ssd": {"alpha": 1.0}}
"""Settings with which a method finds something to change in a network that has learned nothing yet."""

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
    flags = {"exempt_from_budget", "follows_recipe", "recipe_is_binding", "search_space", "prepares_with"}
    for attribute, value in vars(handler).items():
        if not attribute.startswith("_") and not callable(value) and not isinstance(value, (staticmethod, classmethod)):
            assert attribute in parameters.keys() | flags, f"{attribute} needs a type, to be a hyper-parameter"


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
    """A method must work inside a submission notebook, where there is only `BaseMethod`."""
    source = inspect.getsource(inspect.getmodule(METHODS[name]))  # type: ignore[arg-type]
    ours = {path.name for path in Path(inspect.getfile(METHODS[name])).parent.parent.iterdir() if path.is_dir()}
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "."]
        for module in modules:
            assert module == "methods.BaseMethod" or module.split(".")[0] not in ours, module


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


def quick(name: str) -> BaseMethod:
    """The method with a single epoch, if it has epochs."""
    handler = METHODS[name]
    return handler(**{"epochs": 1} if "epochs" in handler.hyper_parameters() else {}, **EAGER.get(name, {}))


def unlearn(name: str, task: Task, seed: int = 1, batch_size: int = 16) -> torch.nn.Module:
    """The network that a run of the method leaves; it began with the weights of seed 0."""
    network = build_network(task, seed=0).eval()
    loaders = run_loaders(task, seed, batch_size)
    seed_everything(seed)
    quick(name).run(network, *loaders)
    return network


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


@every_method
@pytest.mark.parametrize(
    ("network", "channels", "size"),
    [
        ("small_cnn", 1, 8),
        ("small_cnn", 3, 8),
        ("strided_cnn", 3, 8),
        ("all_cnn", 3, 8),
        ("mlp", 1, 8),
        ("resnet18", 3, 32),
        ("resnet18_3x3", 3, 8),
    ],
)
def test_works_with_every_network(name: str, network: str, channels: int, size: int) -> None:
    """With and without batch normalisation, grey and coloured: what it leaves passes the grader's checks.

    Those are: the same architecture, no hooks, finite weights. It is in eval mode too, as the competition's
    baseline leaves it, and has changed (or has not, if it does nothing).
    """
    task = make_task(network, channels, size)
    before = build_network(task, seed=0).state_dict()
    left = unlearn(name, task)
    fresh_network(task, left, name)
    assert not any(module.training for module in left.modules())
    assert bool(differing(before, left.state_dict())) == (name not in LEAVES_WEIGHTS)


@every_method
@pytest.mark.parametrize(
    ("case", "train", "forget"),
    [
        ("a last batch of one image", 40, range(7)),  # 33 to retain, in batches of 16
        ("less to forget than a batch", 40, [3]),
        ("less to retain than a batch", 20, range(10)),
        ("more to forget than to retain", 60, range(50)),
        ("a whole class", 40, range(0, 40, 4)),
    ],
)
def test_works_with_every_forget_set(name: str, case: str, train: int, forget: Any) -> None:
    """Whatever the sizes are: no division by zero, no empty batch, no wait for a class that is not there."""
    task = make_task(train=train, forget=forget)
    fresh_network(task, unlearn(name, task), name)


@every_method
def test_works_on_the_default_task(name: str) -> None:
    """On real digits, in batches of the size that the grader hands out."""
    task = load(TaskSpec("digits", train_size=60))
    fresh_network(task, unlearn(name, task, batch_size=64), name)


@every_method
def test_a_run_is_a_function_of_its_seed(name: str) -> None:
    """The same seed gives the same bits, and another seed others: N runs must not be N copies."""
    task = make_task(train=280, forget=range(140))  # more than a batch, whatever its size, so that the order matters
    first, again, other = (unlearn(name, task, seed).state_dict() for seed in (1, 1, 2))
    assert differing(first, again) == []
    if name not in WITHOUT_CHANCE:
        assert differing(first, other)


@every_method
def test_leaves_the_data_alone(name: str) -> None:
    """Images and labels of all three loaders are what they were. Catches augmentation in place."""
    task = make_task()
    loaders = run_loaders(task, 1, batch_size=16)
    before = [everything(loader) for loader in loaders]
    quick(name).run(build_network(task, seed=0).eval(), *loaders)
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
    answer: object = quick(name).run(build_network(task, seed=0).eval(), *run_loaders(task, 1))  # type: ignore[func-returns-value]
    assert answer is None
