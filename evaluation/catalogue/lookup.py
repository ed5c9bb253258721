"""The methods by name: which there are, and what is known of each. This is what the rest of the kit asks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from data.errors import UserError, unknown_name
from evaluation.catalogue import cache as stored
from evaluation.catalogue.child import complaint_of, describe
from evaluation.catalogue.facts import MethodFacts
from evaluation.catalogue.strangers import only_own, stranger
from methods import all_method_handlers
from methods.registry import FOLDER, NO_METHODS, Handlers, Place, suggested_name

_known: dict[tuple[str, Place], MethodFacts | UserError] = {}
"""What this process has found out. The same file handed in elsewhere has the same name, and another place."""


def registry() -> Handlers:
    """The registered methods, none of which is imported for it."""
    return all_method_handlers()


def facts_of(name: str) -> MethodFacts:
    """What is known of a method.

    Raises:
        UserError: there is no such method, or its file can't be used; the message names the file.
    """
    found = look_up([name])[name]
    if isinstance(found, UserError):
        raise found
    return found


def all_facts() -> dict[str, MethodFacts]:
    """What is known of the registered methods, without those whose file can't be used."""
    return {name: found for name, found in look_up(registry()).items() if isinstance(found, MethodFacts)}


def look_up(names: Iterable[str]) -> dict[str, MethodFacts | UserError]:
    """What is known of methods, by name; in place of a method that can't be used, the error that says why."""
    names = list(names)
    handlers = registry()
    found: dict[str, MethodFacts | UserError] = {}
    unread: dict[str, Place] = {}
    for name in names:
        try:
            place = stranger(name) or handlers.where(name)
        except KeyError:
            found[name] = unknown_name("method", name, handlers, shown_by="python main.py list")
        except TypeError as error:
            found[name] = UserError(f"The entry {name!r} of methods/__init__.py can't be used: {error}.")
        else:
            known = _known.get((name, place)) or _found_without_asking(name, place)
            if known is None:
                unread[name] = place
            else:
                found[name] = _known[name, place] = known
    if unread:
        asked = time.time()
        for name, answer in describe(unread).items():
            found[name] = _known[name, unread[name]] = _read(name, unread[name], answer, asked)
    return {name: found[name] for name in names}


def _found_without_asking(name: str, place: Place) -> MethodFacts | UserError | None:
    if not (stored.ROOT / place.file).is_file():
        named = "" if place.path else ", which methods/__init__.py names,"
        return UserError(f"{name} can't be used: {place.file}{named} is not there.")
    kept = stored.find(place)
    return None if kept is None else _built(name, place, *kept)


def _read(name: str, place: Place, answer: Mapping[str, Any], asked: float) -> MethodFacts | UserError:
    """What a child process has answered."""
    if "error" in answer:
        return UserError(str(answer["error"]))
    try:
        said = msgspec.convert(answer, stored.Answer)
        if place.path:
            only_own(said.facts, place)
        files = stored.digests(said.facts.files)
    except (msgspec.ValidationError, OSError) as error:
        return UserError(f"{name} can't be used: {place.file} describes itself wrongly ({error}).")
    found = _built(name, place, said, files)
    if isinstance(found, MethodFacts):
        stored.keep(place, said, files, asked)
    return found


def _built(name: str, place: Place, answer: stored.Answer, files: Mapping[str, str]) -> MethodFacts | UserError:
    try:
        return answer.facts.build(name, place, registry().is_registered(name), files)
    except (ValueError, TypeError, KeyError) as error:
        return UserError(f"{name} can't be used: {place.file} describes itself wrongly ({error}).")


def refused_by_constructor(facts: MethodFacts, values: Mapping[str, Any]) -> str | None:
    """What the method's own constructor has against values of all its hyper-parameters; None if it takes them."""
    return _refused(facts.name, facts.place, tuple(values.items())) if facts.has_init else None


@cache
def _refused(name: str, place: Place, values: tuple[tuple[str, Any], ...]) -> str | None:
    return complaint_of(name, place, dict(values))


# ----------------------------------------------------------------------------------------------------------------------
# Names
# ----------------------------------------------------------------------------------------------------------------------


def find_name(text: str) -> str:
    """The name of the method that a text stands for: its name, its class (`MyIdea`), or its file in `methods/`.

    Raises:
        UserError: there is no such method; the message has the nearest ones, or says what to do with the file.
    """
    handlers = registry()
    if text in handlers:
        return text
    stem = _stem(text)
    name = handlers.name_of(stem)
    if name is not None:
        return name
    if stem.isidentifier() and stem not in NO_METHODS and (FOLDER / f"{stem}.py").is_file():
        raise UserError(
            f"methods/{stem}.py would be called {suggested_name(stem)}, as another method is: give it a name of its "
            "own in methods/__init__.py."
        )
    names = [*handlers, *handlers.unregistered().values()]
    raise unknown_name("method", text, names, shown_by="python main.py list")


def _stem(text: str) -> str:
    """The name of a file of `methods/` without its ending, if the text names one; else the text.

    Raises:
        UserError: it names a file that lies elsewhere.
    """
    if "/" not in text and not text.endswith(".py"):
        return text.removeprefix("methods.")
    path = Path(text if text.endswith(".py") else f"{text}.py").expanduser()
    files = [folder / path for folder in (Path.cwd(), FOLDER.parent, FOLDER) if (folder / path).is_file()]
    for file in files:
        if file.parent.resolve() == FOLDER.resolve():
            return file.stem
    if files:
        raise UserError(f"{text} is not in the folder methods/: copy it there, and say -m methods/{path.name}.")
    return text
