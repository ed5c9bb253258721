"""Methods that tests write, and small input folders."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.faces import FacesSize
from methods.BaseMethod import BaseMethod
from notebooks.simulated import make_input

WriteMethod = Callable[..., type[BaseMethod]]


@pytest.fixture
def write_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteMethod]:
    """Writes `methods/NAME.py`, in a folder of the test's own, and imports it: `write_method(source, name="Odd")`.

    A module of helpers, which has no class of its name, gives None.
    """
    written: list[str] = []

    def write(source: str, name: str = "Odd") -> type[BaseMethod]:
        path = tmp_path.joinpath("methods", *name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(source.encode())
        module_name = f"methods.{name}".removesuffix(".__init__")
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        written.append(module_name)
        package, _, last = module_name.rpartition(".")
        if package not in sys.modules:
            folder = types.ModuleType(package)
            folder.__path__ = [str(path.parent)]
            monkeypatch.setitem(sys.modules, package, folder)
        monkeypatch.setattr(sys.modules[package], last, module, raising=False)
        spec.loader.exec_module(module)
        handler: type[BaseMethod] = getattr(module, name, None)  # type: ignore[assignment]
        return handler

    environment = dict(os.environ)
    yield write
    os.environ.clear()
    os.environ.update(environment)
    for module_name in written:
        del sys.modules[module_name]


@pytest.fixture(scope="session")
def small_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on Kaggle, of about 130 images, whose original is a small network: for many methods, quickly."""
    folder = tmp_path_factory.mktemp("small_input")
    make_input(folder, FacesSize("small", subjects=40, images=(3, 4)), network="small_cnn", epochs=10)
    return folder
