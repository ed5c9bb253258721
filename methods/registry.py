"""From the name of a method to its class, whose file is imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from methods.BaseMethod import BaseMethod

FOLDER = Path(__file__).parent
NO_METHODS = ("__init__", "BaseMethod", "registry", "initialisation")
"""Files of this folder that no method is looked for in."""


class Place(NamedTuple):
    """Where the class of a method is."""

    module: str
    """Its dotted name, `methods.MyIdea`."""
    class_name: str
    path: str = ""
    """Of a file that lies elsewhere, and is none of the kit's: where it is. The class is then its only one."""

    @property
    def file(self) -> str:
        """The file's path in the kit; of one that lies elsewhere, its whole path."""
        return self.path or f"{self.module.replace('.', '/')}.py"


class Handlers(Mapping[str, "type[BaseMethod]"]):
    """The registered methods: a mapping from their names to their classes.

    An entry is the name of a file of this folder that has a class of the same name, `"MyIdea"`; or a class. It may
    have the wrong type, as it is written by hand: `where` says so.

    A method that nobody has registered is found, too, by the name that its file suggests (`my_idea` for `MyIdea.py`),
    though it is not counted among the others.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> type[BaseMethod]:
        """The class, imported now. Raises KeyError, and whatever the import of its file raises."""
        entry = self._entries.get(name)
        return entry if isinstance(entry, type) else find_class(self.where(name))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or (isinstance(name, str) and name in self.unregistered().values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def is_registered(self, name: str) -> bool:
        """Whether there is an entry for it."""
        return name in self._entries

    def where(self, name: str) -> Place:
        """Where the class of a method is; nothing is imported.

        Raises:
            KeyError: there is no such method.
            TypeError: its entry is neither a text nor a class.
        """
        if name not in self._entries:
            found = [stem for stem, suggested in self.unregistered().items() if suggested == name]
            if not found:
                raise KeyError(name)
            return Place(f"{__package__}.{found[0]}", found[0])
        entry = self._entries[name]
        if isinstance(entry, type):
            return Place(entry.__module__, entry.__qualname__)
        if not isinstance(entry, str) or not all(part.isidentifier() for part in entry.split(".")):
            raise TypeError(f'it must be the name of a class, like "MyIdea" for methods/MyIdea.py, not {entry!r}')
        return Place(f"{__package__}.{entry}", entry.rpartition(".")[2])

    def unregistered(self) -> dict[str, str]:
        """Files of this folder that no entry names, without their ending, and the names that they suggest.

        A name that is taken, or that two files suggest, is left out.
        """
        modules = {
            entry.__module__ if isinstance(entry, type) else f"{__package__}.{entry}"
            for entry in self._entries.values()
        }
        stems = sorted(path.stem for path in FOLDER.glob("*.py"))
        found = {stem: suggested_name(stem) for stem in stems if f"{__package__}.{stem}" not in modules}
        names = list(found.values())
        return {
            stem: name
            for stem, name in found.items()
            if stem not in NO_METHODS and name not in self._entries and names.count(name) == 1
        }

    def name_of(self, stem: str) -> str | None:
        """The name of the method in the file `stem` of this folder, registered or not; None if it can't have one."""
        for name in self._entries:
            try:
                if self.where(name).module == f"{__package__}.{stem}":
                    return name
            except TypeError:  # that of another entry
                continue
        return self.unregistered().get(stem)


def suggested_name(stem: str) -> str:
    """What a method is called by the name of its file.

    >>> suggested_name("MyIdea"), suggested_name("L1Sparse"), suggested_name("MLPIdea2"), suggested_name("my_idea")
    ('my_idea', 'l1_sparse', 'mlp_idea2', 'my_idea')
    """
    return re.sub(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][^\W_A-Z\d])", "_", stem).lower()


def find_class(place: Place) -> type[BaseMethod]:
    """Import the file and give its class: that of the file's name, or else its only one that is a method.

    Raises:
        TypeError: there is no such class, or it is no method. And whatever the import raises.
    """
    from methods.BaseMethod import BaseMethod

    module = _module_elsewhere(place) if place.path else importlib.import_module(place.module)
    found = None if place.path else getattr(module, place.class_name, None)
    if found is None:
        own = [value for value in vars(module).values() if _is_method(value) and value.__module__ == module.__name__]
        if len(own) != 1 and place.path:
            raise TypeError(f"it has {len(own)} classes that inherit from {BaseMethod.__name__}, and needs one")
        if len(own) != 1:
            raise TypeError(f"it has no class {place.class_name}: the class is called as the file is")
        found = own[0]
    if not _is_method(found):
        raise TypeError(f"{place.class_name} does not inherit from {BaseMethod.__name__}")
    handler: type[BaseMethod] = found
    return handler


def _module_elsewhere(place: Place) -> ModuleType:
    """The module of a file that lies elsewhere, under a name of its own, imported once."""
    known = sys.modules.get(place.module)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(place.module, place.path)
    if spec is None or spec.loader is None:
        raise TypeError("it is not a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.module] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(place.module, None)
        raise
    return module


def _is_method(value: Any) -> bool:
    from methods.BaseMethod import BaseMethod

    return isinstance(value, type) and issubclass(value, BaseMethod) and value is not BaseMethod
