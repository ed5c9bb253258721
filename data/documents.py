"""Documents that somebody else may have written: JSON and YAML, read with limits, into plain values."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from data.texts import printable

MOST_BYTES = 64 << 20
"""Of a file of text that is read; the largest of ours, a report of thousands of epsilons, has some megabytes."""


MOST_BYTES_OF_YAML = 1 << 19
"""Of a YAML file, of which reading half a megabyte takes seconds."""

MERGE = "tag:yaml.org,2002:merge"

MOST_VALUES = 1_000_000
"""That a YAML file may stand for."""


class DocumentError(ValueError):
    """The text is no such document; the message says why, without the name of the file."""


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a regular file, in UTF-8.

    Raises:
        OSError: as for any file.
        DocumentError: it is a pipe or a device, which could be read for ever; it is too large, or not UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise DocumentError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DocumentError(f"it has more than {most_bytes / (1 << 20):g} MB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 text (byte {error.start})") from error


def read_json(path: Path, with_nan: bool = True) -> Any:
    """The values in a JSON file.

    Raises:
        OSError, DocumentError: as `read_text`; or it is not JSON.
    """
    return parse_json(read_text(path), with_nan)


def parse_json(text: str, with_nan: bool = True) -> Any:
    """The values of a JSON text; `with_nan` allows NaN and Infinity, which JSON has not. Raises `DocumentError`."""
    try:
        return json.loads(text, parse_constant=float if with_nan else _refuse_constant)
    except ValueError as error:
        raise DocumentError(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises:
        OSError, DocumentError: as `read_text`; or it is not YAML.
    """
    text = read_text(path, MOST_BYTES_OF_YAML)
    try:
        values = yaml.load(text, _Loader)
        size = _size(values, {})
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date that is none is a ValueError
        raise DocumentError(f"it is not YAML: {_what_is_wrong(error)}") from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    if size > MOST_VALUES:
        raise DocumentError(f"it stands for more than {MOST_VALUES:,} values")
    return values


def _what_is_wrong(error: Exception) -> str:
    """In one line, without the picture of the place that the library draws."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


class _Loader(yaml.SafeLoader):
    """Reads what `yaml.safe_load` reads, but for merges (`<<: *a`) that become more values than a file may have.

    An entry that a mapping has twice is refused, too: the first would be lost without a word.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in found:
                line = key.start_mark.line + 1
                raise DocumentError(
                    f"it has the entry {printable(key.value, 60)} twice, the second time in line {line}"
                )
            if name is not None and key.tag != MERGE:
                found.add(name)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put the entries that are merged into a mapping in their place, if they are not too many."""
        entries = len(node.value)
        for key, merged in node.value:
            if key.tag == MERGE:
                parts = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
                for part in parts:
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        entries += len(part.value)
                    if entries > MOST_VALUES:
                        raise DocumentError(f"it stands for more than {MOST_VALUES:,} values")
        super().flatten_mapping(node)


def _size(values: Any, known: dict[int, int]) -> int:
    """How many values there are, written out: references make a few lines of YAML stand for billions, or for no end."""
    if not isinstance(values, (dict, list)):
        return 1
    if id(values) not in known:
        known[id(values)] = MOST_VALUES + 1  # what it has when it is met again inside of itself
        parts = values.values() if isinstance(values, dict) else values
        known[id(values)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(values)]
