"""Methods that tests write, and small input folders."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.faces import FacesSize
from methods.BaseMethod import BaseMethod
from notebooks.simulated import make_input

WriteMethod = Callable[..., type[BaseMethod]]


@pytest.fixture
def write_method(tmp_path: Path) -> Iterator[WriteMethod]:
    """Writes `methods/NAME.py`, in a folder of the test's own, and imports it: `write_method(source, name="Odd")`."""
    written: list[str] = []

    def write(source: str, name: str = "Odd") -> type[BaseMethod]:
        path = tmp_path / "methods" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        module_name = f"methods.{name}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        written.append(module_name)
        spec.loader.exec_module(module)
        handler: type[BaseMethod] = getattr(module, name)
        return handler

    yield write
    for module_name in written:
        del sys.modules[module_name]


@pytest.fixture(scope="session")
def small_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on Kaggle, of about 130 images, whose original is a small network: for many methods, quickly."""
    folder = tmp_path_factory.mktemp("small_input")
    make_input(folder, FacesSize("small", subjects=40, images=(3, 4)), network="small_cnn", epochs=10)
    return folder
