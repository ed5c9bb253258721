"""Parents, mixins and helpers from other files travel, however they are imported."""

from __future__ import annotations

import re

import pytest

from tests.notebooks.conftest import WriteMethod
from tests.notebooks.test_extraction import assert_same, notebook_code, read_cases

CASES = read_cases("odd_modules.txt")


@pytest.mark.parametrize("whole_module", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_code_of_several_files_runs_the_same(
    name: str, whole_module: bool, write_method: WriteMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is needed of each file travels, and nothing else of modules that are no methods."""
    case = CASES[name]
    parts = re.split(r"^# FILE (\S+)\n", case.source, flags=re.MULTILINE)[1:]
    files = dict(zip(parts[::2], parts[1::2], strict=True))
    for module, source in files.items():
        handler = write_method(source, name=module)
    code = notebook_code(handler, whole_module, **case.values)
    for text in case.travels:
        assert text in code
    for text in [] if whole_module else case.stays:
        assert text not in code
    assert_same(handler, code, monkeypatch, **case.values)
