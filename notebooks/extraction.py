"""What of a method's files `run()` needs, directly or not, and what may matter though nothing says so."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator

from methods.BaseMethod import BaseMethod
from notebooks.assembly import names_of_template
from notebooks.effects import acts
from notebooks.program import Link, MethodClass, Program, Travellers, is_import
from notebooks.refusals import problems
from notebooks.source import Piece, SourceFile

FOR_THE_KIT = frozenset(
    name for name, annotation in inspect.get_annotations(BaseMethod).items() if "ClassVar" in str(annotation)
)
"""The attributes of a method that tell the kit about it; a run does without them."""


def everything(program: Program) -> Travellers:
    """All of the method's files, apart from `if __name__ == "__main__"` and what only the kit has a use for.

    Of other modules that they import, it is what `needed_by` would take.
    """
    found = Travellers(names={file: set() for file in program.files})
    attributes = {name for piece in _all_pieces(program) for name in piece.attributes}
    for file in dict.fromkeys(cls.file for cls in program.classes):
        for piece in file.pieces:
            if piece.is_main_guard:
                continue
            cls = program.class_of.get(piece)
            if cls is None:
                found.take(file, piece)
                found.names[file] |= piece.binds
                continue
            found.take(file, cls.header)
            for member in cls.members:
                if not _is_for_the_kit(member, attributes):
                    found.take(file, member)
    return with_what_may_matter(program, completed(program, found))


def _all_pieces(program: Program) -> Iterator[Piece]:
    """Every statement of the files, members of the method's classes among them, apart from what is for the kit."""
    for file in program.files:
        yield from (piece for piece in file.pieces if piece not in program.class_of)
    for cls in program.classes:
        yield from (member for member in cls.members if not _is_for_the_kit(member, attributes=()))


def _is_for_the_kit(member: Piece, attributes: Iterable[str]) -> bool:
    """Whether a member of a class is for the kit alone: that is, unless it is among the attributes that are in use."""
    return bool(member.binds) and member.binds <= FOR_THE_KIT.difference(attributes)


def needed_by(program: Program, roots: Iterable[str] = ("run",)) -> Travellers:
    """The members of the method that are named, all that they need, and what may matter, if it can travel.

    An attribute is needed if reached code mentions one of its name, of whatever object, or a string that is its name;
    a name of the module if the bytecode reads it. Hyper-parameters and special methods (`__init__`) always travel.
    """
    found = Travellers(names={file: set() for file in program.files}, attributes=set(roots))
    return with_what_may_matter(program, completed(program, found))


# ----------------------------------------------------------------------------------------------------------------------
# What is needed
# ----------------------------------------------------------------------------------------------------------------------


def completed(program: Program, found: Travellers) -> Travellers:
    """`found`, to which all is added that it needs."""
    size = -1
    while size < found.size:
        size = found.size
        for file in program.files:
            for piece in file.pieces:
                if piece not in program.class_of and _is_needed(piece, file, found.names[file]):
                    found.take(file, piece)
            for link in reached_links(program, file, found):
                _follow(program, link, found)
        for cls in program.classes:
            found.take(cls.file, cls.header)
            found.names[cls.file].add(cls.name)  # `Name.attribute = ...` belongs to it
            for member in _needed_members(program, cls, found):
                found.take(cls.file, member)
    return found


def _is_needed(piece: Piece, file: SourceFile, names: set[str]) -> bool:
    if piece.is_main_guard:
        return False
    if piece.binds & names:
        return True
    touched = piece.effect_needs()
    if not piece.binds and _defined_here(file, touched) & names:  # `TABLE.update(...)`
        return True
    if _local_closure(file, touched) & names:  # `@register def ...`, where `register` fills a table in use
        return True
    return bool(_registering_bases(file, piece) & names)


def _defined_here(file: SourceFile, names: Iterable[str]) -> set[str]:
    """The names among these that the file does not import. (What changes something imported is for `effects.py`.)"""
    return {name for name in names if any(not is_import(piece) for piece in file.binding(name))}


def _local_closure(file: SourceFile, names: Iterable[str]) -> set[str]:
    """The names among these, and among what they need in turn, that the file defines (and does not import)."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        pieces = [piece for piece in file.binding(name) if not is_import(piece)]
        if name not in found and pieces:
            found.add(name)
            waiting += [needed for piece in pieces for needed in piece.needs]
    return found


def _registering_bases(file: SourceFile, piece: Piece) -> set[str]:
    """The classes of the file that get to know of a class which inherits from them; and what they need."""
    bases = {
        base.id
        for node in piece.nodes
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    closure = _local_closure(file, bases)
    told = any(_is_told_of_subclasses(known) for name in closure for known in file.binding(name))
    return closure if told or _subclasses_are_listed(file) else set()


def _is_told_of_subclasses(piece: Piece) -> bool:
    return "__init_subclass__" in piece.defines or any(
        isinstance(node, ast.ClassDef) and any(keyword.arg == "metaclass" for keyword in node.keywords)
        for node in piece.walk()
    )


def _subclasses_are_listed(file: SourceFile) -> bool:
    return any("__subclasses__" in piece.attributes for piece in file.pieces)


def _needed_members(program: Program, cls: MethodClass, found: Travellers) -> Iterator[Piece]:
    """The members of one class that have to travel, as far as it is known by now."""
    reached = [piece for piece in found.pieces if not any(piece is other.header for other in program.classes)]
    receivers = _receivers(program)
    all_of_them = cls.is_one_line or any(receivers & roots for piece in reached for roots in piece.lookups)
    names = (found.attributes - _overridden(program, cls, reached)) | program.hyper_parameters
    for member in cls.members:
        if member in found.pieces:
            names |= member.needs_at_top  # `second = first + 1` in the body of the class
    own = names & {name for member in cls.members for name in member.binds}
    for member in cls.members:
        if _is_for_the_kit(member, found.attributes):
            continue
        special = any(name.startswith("__") and name.endswith("__") for name in member.binds)
        if all_of_them or special or member.binds & names or not member.binds:
            yield member
            continue
        touched = member.effect_needs()  # `@register def ...`, as at the top level; or `@step.register def _(...)`
        if touched & own or _local_closure(cls.file, touched) & found.names[cls.file] or _is_told_of_owner(cls, member):
            yield member


def _is_told_of_owner(cls: MethodClass, member: Piece) -> bool:
    """Whether an attribute is made by a class of the file that gets to know whose attribute it is."""
    closure = _local_closure(cls.file, member.needs_at_top)
    return any("__set_name__" in piece.defines for name in closure for piece in cls.file.binding(name))


def _receivers(program: Program) -> set[str]:
    """The names by which the code knows the method and its classes."""
    own = {name for cls in program.classes for member in cls.members for name in member.first_arguments}
    return {"self", "cls"} | own | {cls.name for cls in program.classes}


def _overridden(program: Program, cls: MethodClass, reached: Iterable[Piece]) -> set[str]:
    """The attributes that classes below define anew; none if reached code calls `super()`, or a parent by its name."""
    ancestors = {other.name for other in program.classes[:-1]} | program.parents_imported | {"super"}
    by_order = {"__mro__", "mro", "__base__", "__bases__"}
    if any(ancestors & piece.needs.keys() or by_order & piece.attributes for piece in reached):
        return set()
    below = program.classes[program.classes.index(cls) + 1 :]
    return {name for other in below for member in other.members for name in member.binds}


# ----------------------------------------------------------------------------------------------------------------------
# Modules beside the method
# ----------------------------------------------------------------------------------------------------------------------


def reached_links(program: Program, file: SourceFile, found: Travellers) -> Iterator[Link]:
    """What travelling code imports from files that travel: at the top level, if the name is needed, and elsewhere."""
    yield from (link for link in program.top_links(file) if link.bound in found.names[file])
    for piece in program.pieces(file):
        if piece in found.pieces and not is_import(piece):
            yield from program.links_in(file, piece)


def _follow(program: Program, link: Link, found: Travellers) -> None:
    """Add the names that an import needs of the file that it is of; of a module, those that are attributes."""
    if link.file is None:
        return
    if link.name is not None:
        found.names[link.file].add(link.name)
        return
    known = link.file.bound
    looked_up = any(link.bound in roots for piece in found.pieces for roots in piece.lookups)
    found.names[link.file] |= known if looked_up else known & found.attributes


# ----------------------------------------------------------------------------------------------------------------------
# What may matter
# ----------------------------------------------------------------------------------------------------------------------


def with_what_may_matter(program: Program, found: Travellers) -> Travellers:
    """Add what may matter to the method without being needed by name, as far as it can travel.

    That is: statements that change something outside of their file; what annotations mention; and where attributes or
    names are looked up that are computed, all that may be meant.
    """
    if problems(program, found, names_of_template()):
        return found
    tried: set[Candidate] = set()
    while candidates := [one for one in dict.fromkeys(_candidates(program, found)) if one not in tried]:
        tried.update(candidates)
        together = _with(program, found, candidates)
        if together is not None:
            found = together
            continue
        for candidate in candidates:
            found = _with(program, found, [candidate]) or found
    for file in _executed(program, found):
        found.left_behind += [(file, piece) for piece in _acting(program, file, found)]
    return found


def _acting(program: Program, file: SourceFile, found: Travellers) -> list[Piece]:
    """Statements of a file, those in the bodies of the method's classes too, that act and don't travel yet."""
    return [piece for piece in program.pieces(file) if piece not in found.pieces and acts(file, piece)]


Candidate = tuple[SourceFile, Piece | str]
"""A piece of a file, or a name in it."""


def _with(program: Program, found: Travellers, candidates: Iterable[Candidate]) -> Travellers | None:
    """With these and all that they need; None if that can't travel."""
    trial = found.copy()
    for file, what in candidates:
        if isinstance(what, Piece):
            trial.take(file, what)
        else:
            trial.names[file].add(what)
    completed(program, trial)
    return None if problems(program, trial, names_of_template()) else trial


def _candidates(program: Program, found: Travellers) -> Iterator[Candidate]:
    for file in _executed(program, found):
        yield from ((file, piece) for piece in _acting(program, file, found))
    yield from _looked_up(program, found)
    for file in program.files:
        for piece in program.pieces(file):
            if piece in found.pieces:
                names = sorted(piece.in_annotations - found.names[file])
                yield from ((file, name) for name in names if _can_be_annotated(program, file, name))


def _can_be_annotated(program: Program, file: SourceFile, name: str) -> bool:
    """Whether a name is one of the file's, and neither from `methods/BaseMethod.py` nor for type checkers alone."""
    if any(link.bound == name and link.stays_behind for link in program.top_links(file)):
        return False
    return any(not piece.is_for_type_checkers for piece in file.binding(name))


def _executed(program: Program, found: Travellers) -> list[SourceFile]:
    """The files that are executed when the method is imported and run, in their order."""
    executed: set[SourceFile] = set()
    waiting = [cls.file for cls in program.classes]
    waiting += [
        link.file for file in program.files for link in reached_links(program, file, found) if link.file is not None
    ]
    while waiting:
        file = waiting.pop()
        if file not in executed:
            executed.add(file)
            waiting += [link.file for link in program.top_links(file) if link.file is not None]
    return [file for file in program.files if file in executed]


def _looked_up(program: Program, found: Travellers) -> Iterator[Candidate]:
    """All members of the method, if it is handed on and attributes are looked up; all names, if those of a module."""
    receivers = _receivers(program)
    reached = [piece for piece in found.pieces if not any(piece is cls.header for cls in program.classes)]
    lookups = [roots for piece in reached for roots in piece.lookups]
    handed_on = any(piece.mentions & receivers or "__self__" in piece.attributes for piece in reached)
    if lookups and (handed_on or frozenset() in lookups):
        for cls in program.classes:
            members = [one for one in cls.members if not _is_for_the_kit(one, found.attributes)]
            yield from ((cls.file, member) for member in members if member not in found.pieces)
    for file in program.files:
        here = [piece for piece in program.pieces(file) if piece in found.pieces]
        if any(not roots or "sys" in roots for piece in here for roots in piece.lookups):
            others = [piece for piece in file.pieces if piece not in program.class_of and not is_import(piece)]
            yield from ((file, piece) for piece in others if piece not in found.pieces and piece.binds)
