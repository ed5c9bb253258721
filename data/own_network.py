"""Networks in files of the user's own, `--network file.py:Name`: here a file is read, and nothing is executed.

On the command line the text becomes `/whole/path/file.py:Name@0123456789ab`: with the whole path it means the same
from any folder, and with the beginning of the SHA-256 of the file, a file that is edited while it is in use, or between
two gradings of one `config.yaml`, is noticed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError, shortened

LARGEST = 1_000_000
"""Bytes that a file may have. A larger one is no network, but data."""
DIGITS = 12
"""Of the hash that stands in the text."""


@dataclass(frozen=True)
class OwnNetwork:
    """The file of an own network, as it was read."""

    path: Path
    name: str
    """Of the class or function in it."""
    source: str
    """The text of the file."""

    @property
    def label(self) -> str:
        """What tables call it: without the folder."""
        return f"{self.path.name}:{self.name}"


def is_own(text: str) -> bool:
    """Whether the text names a file.

    >>> [is_own(text) for text in ("small_cnn", "torchvision:resnet50", "net.py:Net", "nets/net.py")]
    [False, False, True, True]
    """
    return _parts(text)[0].endswith(".py")


def absolute(text: str) -> str:
    """The text with the whole path of the file; other texts as they are.

    >>> absolute("/nets/../net.py:Net"), absolute("small_cnn")
    ('/net.py:Net', 'small_cnn')
    """
    if not is_own(text):
        return text
    path, name, digest = _parts(text)
    whole = Path.cwd() / Path(path).expanduser()
    return _joined(str(Path(*_without_dots(whole))), name, digest)


def pinned(text: str) -> str:
    """The text with the whole path, and the hash of the file as it is now; other texts as they are.

    Raises:
        UserError: as `read_own` does.
    """
    if not is_own(text):
        return text
    path, name, digest = _parts(absolute(text))
    return _joined(path, name, digest or _digest(read_own(text).source))


def read_own(text: str) -> OwnNetwork:
    """The file that a text names.

    Raises:
        UserError: it is not there, or can't be read; no name follows; or it is not the file any more whose hash the
            text has.
    """
    path, name, digest = _parts(absolute(text))
    shown = shortened(path, 200)
    source = _read(Path(path), shown)
    if not name:
        found = re.findall(r"^(?:class|def) (\w+)", source, flags=re.MULTILINE)
        example = shortened(found[-1]) if found else "Net"
        raise UserError(f"Say which class or function of {shown} is the network: {Path(path).name}:{example}, say.")
    if digest and digest != _digest(source):
        raise UserError(
            f"{shown} has been edited since: undo that, or name it again, which takes it as it is now, another network "
            f"with models of its own (--network {shortened(text.rpartition('@')[0], 200)})."
        )
    return OwnNetwork(Path(path), name, source)


def _read(path: Path, shown: str) -> str:
    try:
        if not path.is_file():
            raise UserError(f"There is no file {shown}: name the file of the network, like --network net.py:Net.")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown} can't be read ({error.strerror}): make the file of the network readable.") from error
    if len(content) > LARGEST:
        raise UserError(f"{shown} has {len(content):,} bytes: the file of a network has at most {LARGEST:,}.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is no text in UTF-8: save it as UTF-8.") from error


def _parts(text: str) -> tuple[str, str, str]:
    """Path, name and hash of a text; what is not there is empty."""
    found = re.fullmatch(rf"(.*?)(?::([^:/@]*)(?:@([0-9a-f]{{{DIGITS}}}))?)?", text, flags=re.DOTALL)
    assert found is not None
    path, name, digest = found.groups()
    return path, name or "", digest or ""


def _joined(path: str, name: str, digest: str) -> str:
    return path + (f":{name}" if name else "") + (f"@{digest}" if digest else "")


def _without_dots(path: Path) -> list[str]:
    """The parts of a path without "..", and without following links: what the user typed stays recognisable."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "..":
            parts.append(part)
    return parts


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:DIGITS]
