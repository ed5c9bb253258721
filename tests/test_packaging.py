"""What `pip install -e .` finds, and that there is one list of what the kit needs."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

import main

REPOSITORY = Path(__file__).parent.parent
NOT_INSTALLED = {"tests"}


@pytest.fixture
def pyproject() -> dict[str, Any]:
    """The contents of `pyproject.toml`."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 can't read it")
    content: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    return content


def test_all_modules_are_installed(pyproject: dict[str, Any]) -> None:
    """Catches a new folder, or a new file beside main.py, that the installed command would miss."""
    about = pyproject["tool"]["setuptools"]
    assert sorted(about["py-modules"]) == sorted(path.stem for path in REPOSITORY.glob("*.py"))
    for package in (path.parent.name for path in REPOSITORY.glob("*/__init__.py")):
        patterns = about["packages"]["find"]["include"]
        assert any(fnmatch(package, pattern) for pattern in patterns) != (package in NOT_INSTALLED), package


def test_files_that_are_read_are_installed(pyproject: dict[str, Any]) -> None:
    """Tuned values, the template of notebooks, and sweeps."""
    for package, patterns in pyproject["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            assert list((REPOSITORY / package).glob(pattern)), f"{package}/{pattern} matches nothing"


def test_dependencies_stand_in_one_place(pyproject: dict[str, Any]) -> None:
    """`requirements.txt` is read, not copied; `requirements-dev.txt` installs the extra."""
    assert "dependencies" in pyproject["project"]["dynamic"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    assert (REPOSITORY / "requirements-dev.txt").read_text().split() == ["-e", ".[dev]"]


def test_the_command_is_main(pyproject: dict[str, Any]) -> None:
    """`unlearning-kit` calls a function that is there."""
    assert pyproject["project"]["scripts"] == {"unlearning-kit": "main:main"}
    assert callable(main.main)


@pytest.mark.parametrize("path", [*sorted(REPOSITORY.glob(".github/**/*.yml")), REPOSITORY / ".pre-commit-config.yaml"])
def test_configuration_can_be_read(path: Path) -> None:
    """GitHub and pre-commit say nothing of a file that they can't read, until somebody needs it."""
    assert isinstance(yaml.safe_load(path.read_text()), dict)
