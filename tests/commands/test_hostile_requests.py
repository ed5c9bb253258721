"""A hostile `where:` request, wherever the command line reads one: a sentence, and nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.command_line import command

if TYPE_CHECKING:
    from tests.conftest import Answer

TINY = ["--train-size", "60", "--recipe", "epochs=1", "--originals", "1", "--models", "6", "--budget-seconds", "60"]

HOSTILE = {
    "globals": 'where:label.__init__.__globals__["sys"].modules["os"].system("touch {canary}") == label',
    "a method that writes": 'where:label.to_csv("{canary}") == label',
}


@pytest.fixture(params=HOSTILE)
def request_text(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A text that, evaluated, makes a file; afterwards, the file must not be there."""
    yield HOSTILE[request.param].format(canary=tmp_path / "canary")
    assert not (tmp_path / "canary").exists()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `config.yaml` of a finished grading, in its folder."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_RESULTS", str(results))
        answer = command("-m", "do_nothing", *TINY, "--forget", "random:12", "--quiet")
        assert answer.code == 0, answer.stderr
    (path,) = results.glob("*/*/config.yaml")
    return path


def with_request(config: Path, forget: str) -> dict[str, Any]:
    """The values of a `config.yaml` with another request."""
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    values["task"]["forget"] = [forget]
    return values


def check(answer: Answer) -> None:
    """One line, which tells of the request."""
    assert answer.code == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Forget request 'where:label." in line
    assert "columns have no method" in line


def test_from_the_command_line(request_text: str) -> None:
    """By --forget, of a grading and of another command that takes it."""
    check(command("-m", "do_nothing", *TINY, "--forget", request_text))
    check(command("show", "--train-size", "60", "--forget", request_text))


@pytest.mark.slow
def test_from_a_config(request_text: str, config: Path, tmp_path: Path) -> None:
    """A file that somebody shares."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(with_request(config, request_text)))
    check(command("--config", str(path)))


@pytest.mark.slow
def test_from_the_folder_of_a_grading(request_text: str, config: Path) -> None:
    """Somebody's results, to be scored again; the honest ones are scored."""
    before = config.read_text()
    assert command("score", str(config.parent)).code == 0
    config.write_text(yaml.safe_dump(with_request(config, request_text)))
    try:
        check(command("score", str(config.parent)))
    finally:
        config.write_text(before)


def test_from_a_sweep(request_text: str, tmp_path: Path) -> None:
    """The file of a figure."""
    described = {
        "title": "t",
        "figure": "budget",
        "values": [1],
        "seeds": 1,
        "task": {"name": "digits", "train_size": 60, "forget": request_text},
        "curves": [{"name": "retrain", "method": "certified_retrain"}],
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(described))
    check(command("sweep", str(path), "--out", str(tmp_path / "out"), "--devices", "cpu", "--jobs", "1", "--quiet"))
