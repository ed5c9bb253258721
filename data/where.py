"""The language of `where:` requests: true or false for each image, by its metadata.

It looks like `pandas.DataFrame.query`, which it agrees with, but no text of a request is ever given to Python or pandas
to be evaluated: a lexer of its own makes tokens, and a parser computes as it reads, with nothing but the functions of
this file. A name is a key of the table's columns or of `_METHODS`, never an attribute. No value can come up but a bool,
a number, a text, a list of such, or a column. No operation changes the order of the rows. docs/requests.md tells users
of it. From loosest to tightest:

    or |      and &      not      == != < <= > >= in, not in      + -      * / // %      + - ~ (signs)      **

`&` and `|` bind as loosely as `and` and `or`, as in pandas: `a == 1 & b == 2` is `(a == 1) & (b == 2)`. Comparisons
chain: `2010 <= year < 2015`.

Texts from strangers must not cost minutes either. Characters, operations and depth are bounded; whole numbers keep to
64 bits; texts can't be multiplied; and there are no regular expressions, of which some take for ever.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import operator
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from data.errors import UserError, shortened

MOST_CHARACTERS = 50_000
"""Of an expression: enough for a list of some thousand image ids."""

MOST_OPERATIONS = 500
"""Operators, each of which takes a pass over the table. A list counts as nothing, however long it is."""

METHOD_COUNTS = 10
"""As how many operations a method counts: those of text take longer."""

MOST_DEPTH = 60
"""Of nested parentheses and operators."""

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = np.ndarray | Scalar | list[Scalar]


def rows_where(text: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """For each row of the table whether the expression is true, bool `(n,)`.

    `columns` are bool, numbers or text, `(n,)` each. Raises `UserError`, which names the columns.
    """
    try:
        return _Expression(text, columns).rows()
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}; the columns are {_listed(columns)}.") from error


def _listed(columns: Mapping[str, np.ndarray], most: int = 20) -> str:
    """The names of columns, as they are written in an expression."""
    shown = ", ".join(_as_written(name) for name in list(columns)[:most])
    return shown if len(columns) <= most else f"{shown} and {len(columns) - most} more"


def _as_written(name: str) -> str:
    plain = re.fullmatch(_NAME, name) and name not in _KEYWORDS
    return shortened(name) if plain else f"`{repr(shortened(name))[1:-1]}`"


# ----------------------------------------------------------------------------------------------------------------------
# Tokens
# ----------------------------------------------------------------------------------------------------------------------

_NAME = r"[^\W\d][\w\u0300-\u036f]*"  # the range: accents, where they are characters of their own
_KEYWORDS = ("and", "or", "not", "in", "True", "False", "None")
_TOKEN = re.compile(
    rf"""
      (?P<space>\s+|\#.*)
    | (?P<number>(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
    | (?P<text>[rR]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    | (?P<quoted>`(?:[^`]|``)+`)
    | (?P<name>{_NAME})
    | (?P<symbol>\*\*|//|<=|>=|==|!=|[-+*/%<>&|~()\[\],.=])
    """,
    re.VERBOSE,
)


class _Token(NamedTuple):
    """`kind` is that of `_TOKEN`, "operator" (a symbol or keyword), or "end"; `at` counts characters from 1."""

    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    """The tokens of a text and one for its end. Raises `UserError` for a character that no token has."""
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _bad_character(text[at], at + 1)
        kind, found = str(match.lastgroup), match[0]
        if kind != "space":
            is_operator = kind == "symbol" or (kind == "name" and found in ("and", "or", "not", "in"))
            # As pandas has it: "&" is another way to write "and", not an operator that binds more tightly.
            found = {"&": "and", "|": "or"}.get(found, found)
            tokens.append(_Token("operator" if is_operator else kind, found, at + 1))
        at = match.end()
    return [*tokens, _Token("end", "", len(text) + 1)]


def _bad_character(character: str, at: int) -> UserError:
    if character in "\"'`":
        return UserError(f"what begins with {character} at character {at} has no end; close it with {character}.")
    return UserError(f"{character!r} at character {at} has no meaning in an expression; leave it out.")


def _number(text: str) -> int | float:
    """The value of a number token. Whole numbers of more than 64 bits and infinite ones are an error."""
    is_whole = re.fullmatch("[0-9_]+", text) is not None
    try:
        if float(text) >= (2**63 if is_whole else math.inf):
            raise UserError(f"the number {shortened(text)} is too large.")
        return int(text) if is_whole else float(text)
    except ValueError:  # 1__0; Python does not read thousands of zeros, either
        raise UserError(f"{shortened(text)} is not a number.") from None


def _text(literal: str) -> str:
    """The value of a text token, which is one Python literal, with Python's escapes."""
    try:
        with warnings.catch_warnings():  # of unknown escapes like "\d", which stay as they are
            warnings.simplefilter("ignore")
            return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        raise UserError(f"the text {shortened(literal)!r} has a bad escape; write \\\\ for a backslash.") from None


# ----------------------------------------------------------------------------------------------------------------------
# Expressions
# ----------------------------------------------------------------------------------------------------------------------

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _SIGN, _POWER = range(8)


class _Expression:
    """A text, and the table that it is about; each method computes what it reads, from the current token on."""

    def __init__(self, text: str, columns: Mapping[str, np.ndarray]) -> None:
        if len(text) > MOST_CHARACTERS:
            raise UserError(
                f"the expression has {len(text)} characters, and at most {MOST_CHARACTERS} are read; write the indices "
                "to a file and use file: instead."
            )
        self._table = columns
        self._tokens = _tokens(text)
        self._at = 0
        self._operations = 0
        self._depth = 0

    def rows(self) -> np.ndarray:
        """The whole expression, which must have an answer for each row, bool `(n,)`."""
        answer = self._expression(_OR)
        if self._token.kind != "end":
            raise self._unexpected()
        if not isinstance(answer, np.ndarray) or answer.dtype != bool:
            raise UserError("the expression is not true or false for each image; compare a column with something")
        return answer

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _unexpected(self) -> UserError:
        kind, text, at = self._token
        if kind == "end":
            return UserError("the expression ends too early.")
        advice = "; write == to compare" if text == "=" else ""
        return UserError(f"{shortened(text)!r} cannot stand at character {at} of the expression{advice}.")

    def _next_is(self, *operators: str) -> bool:
        return self._token.kind == "operator" and self._token.text in operators

    def _skip(self, text: str) -> None:
        if not self._next_is(text):
            raise self._unexpected()
        self._at += 1

    def _take(self, kind: str) -> str:
        """The text of the current token, which must be of this kind; goes on to the next one."""
        if self._token.kind != kind:
            raise self._unexpected()
        self._at += 1
        return self._tokens[self._at - 1].text

    def _count_operation(self, count: int = 1) -> None:
        self._operations += count
        if self._operations > MOST_OPERATIONS:
            raise UserError(
                f"the expression has more than {MOST_OPERATIONS} operations; write COLUMN in [...], or the indices to "
                "a file, and use file: instead."
            )

    def _expression(self, loosest: int) -> Value:
        """As much as is held together by operators that bind at least as tightly as `loosest`."""
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise UserError(f"the expression is nested more than {MOST_DEPTH} deep; simplify it.")
        value = self._start(loosest)
        while (binding := self._binding()) >= loosest:
            value = self._comparisons(value) if binding == _COMPARISON else self._binary(value, binding)
        self._depth -= 1
        return value

    def _binding(self) -> int:
        """How tightly the operator at the current token binds what is before it; -1 if there is none."""
        if self._token.kind != "operator":
            return -1
        if self._next_is("not"):
            return _COMPARISON if self._tokens[self._at + 1][:2] == ("operator", "in") else -1
        return _BINDINGS.get(self._token.text, -1)

    def _binary(self, left: Value, binding: int) -> Value:
        name = self._take("operator")
        self._count_operation()
        # A power groups from the right, and may have a sign: 2 ** -1.
        right = self._expression(_SIGN if binding == _POWER else binding + 1)
        return _arithmetic(name, left, right) if name in _ARITHMETIC else _logic(name, left, right)

    def _comparisons(self, left: Value) -> Value:
        """A chain of them: all must be true."""
        answers = []
        while self._binding() == _COMPARISON:
            name = self._take("operator")
            if name == "not":
                self._skip("in")
                name = "not in"
            self._count_operation()
            right = self._expression(_SUM)
            answers.append(_compare(name, left, right))
            left = right
        together: Value = answers[0]
        for answer in answers[1:]:
            together = _logic("and", together, answer)
        return together

    def _start(self, loosest: int) -> Value:
        """What comes before the first operator of an expression, with the signs in front of it."""
        if self._next_is("not") and loosest <= _NOT:
            self._at += 1
            self._count_operation()
            return _negation("not", self._expression(_NOT))
        if self._next_is("-", "+", "~"):
            sign = self._take("operator")
            self._count_operation()
            value = self._expression(_SIGN)
            return _negation("~", value) if sign == "~" else _signed(sign, value)
        value = self._atom()
        while self._next_is("."):
            value = self._method(value)
        return value

    def _atom(self) -> Value:
        kind, text, _ = self._token
        if kind == "number":
            return _number(self._take("number"))
        if kind == "text":
            return self._texts()
        if kind == "name" and text in ("True", "False", "None"):
            return _constant(self._take("name"))
        if kind == "name":
            return self._column(self._take("name"))
        if kind == "quoted":
            return self._column(self._take("quoted")[1:-1].replace("``", "`"))
        if self._next_is("("):
            return self._parenthesis()
        if self._next_is("["):
            self._skip("[")
            return self._items("]")
        raise self._unexpected()

    def _texts(self) -> str:
        """One text, or several side by side, which are one, as in Python."""
        parts = []
        while self._token.kind == "text":
            parts.append(_text(self._take("text")))
        return "".join(parts)

    def _column(self, name: str) -> np.ndarray:
        if self._next_is("("):
            raise UserError(f"{shortened(name)}() is not possible: there are no functions, only methods of columns.")
        found = name if name in self._table else _same_letters(name, self._table)
        if found is None:
            near = difflib.get_close_matches(name, list(self._table), n=3, cutoff=0.5) if len(name) < 100 else []
            advice = f" (did you mean {' or '.join(map(_as_written, near))}?)" if near else ""
            raise UserError(f"there is no column {shortened(name)!r}{advice}.")
        column = self._table[found]
        return column if column.dtype.kind in "biufU" else column.astype(str)

    def _parenthesis(self) -> Value:
        """An expression in parentheses, or a list that is written with them: `(1, 2)`."""
        self._skip("(")
        if self._next_is(")"):
            return self._items(")")
        value = self._expression(_OR)
        if self._next_is(","):
            return self._items(")", value)
        self._skip(")")
        return value

    def _items(self, closing: str, *first: Value) -> list[Scalar]:
        """What is left of a list of numbers, of texts, or of true and false, after its first items."""
        items = [_item(value) for value in first]
        if first and not self._next_is(closing):
            self._skip(",")
        while not self._next_is(closing):
            items.append(_item(self._expression(_OR)))
            if not self._next_is(closing):
                self._skip(",")
        self._skip(closing)
        return items

    def _method(self, value: Value) -> Value:
        self._skip(".")
        name = self._take("name")
        if name == "str":
            self._skip(".")
            name = f"str.{self._take('name')}"
        if name not in _METHODS:
            raise UserError(f"columns have no method {shortened(name)!r}; they have {', '.join(_METHODS)}.")
        self._count_operation(METHOD_COUNTS)
        return _call(name, value, *self._arguments())

    def _arguments(self) -> tuple[list[Value], dict[str, Value]]:
        """What is in the parentheses of a method, by place and by name."""
        self._skip("(")
        by_place: list[Value] = []
        by_name: dict[str, Value] = {}
        while not self._next_is(")"):
            if self._token.kind == "name" and self._tokens[self._at + 1][:2] == ("operator", "="):
                name = self._take("name")
                self._skip("=")
                by_name[name] = self._expression(_OR)
            else:
                by_place.append(self._expression(_OR))
            if not self._next_is(")"):
                self._skip(",")
        self._skip(")")
        return by_place, by_name


def _item(value: Value) -> Scalar:
    if isinstance(value, np.ndarray | list):
        raise UserError("a list can only have numbers and texts in it, neither columns nor lists.")
    return value


def _constant(name: str) -> bool:
    if name == "None":
        raise UserError('nothing equals None: an empty cell is COLUMN.isna() among numbers and COLUMN == "" in text.')
    return name == "True"


def _same_letters(name: str, columns: Mapping[str, np.ndarray]) -> str | None:
    """The column whose name differs only in how its characters are encoded, such as an accent on its own."""
    wanted = unicodedata.normalize("NFKC", name)
    return next((column for column in columns if unicodedata.normalize("NFKC", column) == wanted), None)


# ----------------------------------------------------------------------------------------------------------------------
# Operators
# ----------------------------------------------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: dict[str, np.ufunc] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.remainder,
    "**": np.power,
}
_BINDINGS = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys((*_COMPARISONS, "in"), _COMPARISON),
    **dict.fromkeys(("+", "-"), _SUM),
    **dict.fromkeys(("*", "/", "//", "%"), _PRODUCT),
    "**": _POWER,
}


def _kind(value: Value) -> str:
    """What it is, or has in its rows, in the plural."""
    if isinstance(value, np.ndarray):
        return {"b": "truth values", "U": "text"}.get(value.dtype.kind, "numbers")
    return {bool: "truth values", str: "text", list: "a list"}.get(type(value), "numbers")


def _comparable(left: Value, right: Value) -> bool:
    """Text with text; numbers, true (1) and false (0) with one another."""
    kinds = {_kind(left), _kind(right)}
    return "a list" not in kinds and ("text" not in kinds or len(kinds) == 1)


def _compare(name: str, left: Value, right: Value) -> np.ndarray | bool:
    """A comparison; `== [1, 2]` is `in [1, 2]`, as in pandas. A missing number differs from all."""
    has_list = isinstance(left, list) or isinstance(right, list)
    if name in ("in", "not in") or (has_list and name in ("==", "!=")):
        found = _is_in(left, right)
        return found if name in ("in", "==") else np.logical_not(found)
    if not _comparable(left, right):
        raise UserError(
            f"{name} cannot compare {_kind(left)} with {_kind(right)}; a text has quotes, and a number has none."
        )
    return _COMPARISONS[name](left, right)


def _is_in(left: Value, right: Value) -> np.ndarray:
    """For each row whether its value is in a list (on either side, as in pandas)."""
    column, items = (right, left) if isinstance(left, list) else (left, right)
    if not isinstance(column, np.ndarray) or not isinstance(items, list):
        raise UserError(
            'in needs a column and a list, such as camera in ["A", "B"]; for a part of a text, write '
            'camera.str.contains("A").'
        )
    for item in items:
        if not _comparable(column, item):
            raise UserError(
                f"a column of {_kind(column)} cannot have {shortened(repr(item))} in it; a text has quotes, and a "
                "number has none."
            )
    wanted = set(items)
    return np.array([value in wanted for value in column.tolist()], dtype=bool)


def _logic(name: str, left: Value, right: Value) -> Value:
    for value in (left, right):
        _check_truth(name, value)
    answer = np.logical_and(left, right) if name == "and" else np.logical_or(left, right)
    return answer if isinstance(answer, np.ndarray) else bool(answer)


def _negation(name: str, value: Value) -> Value:
    _check_truth(name, value)
    return np.logical_not(value) if isinstance(value, np.ndarray) else not value


def _check_truth(name: str, value: Value) -> None:
    if _kind(value) != "truth values":
        raise UserError(f"{name} needs truth values, such as year > 2015, not {_kind(value)}.")


def _signed(sign: str, value: Value) -> Value:
    if _kind(value) != "numbers":
        raise UserError(f"the sign {sign} needs numbers, not {_kind(value)}.")
    return value if sign == "+" else _calculate(np.negative, value)


def _arithmetic(name: str, left: Value, right: Value) -> Value:
    kinds = [_kind(left), _kind(right)]
    for kind in kinds:
        if kind in ("text", "a list"):
            raise UserError(f"{name} needs numbers, not {kind}.")
    if "numbers" not in kinds:
        # NumPy would make + an or and * an and, and so a count of what is true a wrong one.
        raise UserError(f"{name} needs numbers, not truth values; write and, or, not.")
    return _calculate(_ARITHMETIC[name], left, right)


def _calculate(function: np.ufunc, *operands: Value) -> Value:
    """Arithmetic on columns and numbers, with whole numbers as long as the operands are; true counts as 1.

    Whole numbers that leave 64 bits would come out wrong without a word: they are an error.
    """
    arrays = [np.asarray(operand) for operand in operands]
    with np.errstate(all="ignore"):
        answer = function(*(array.astype(np.float64) for array in arrays))
        if not _has_fractions(function, arrays):
            if not (np.abs(answer) < 2.0**62).all():
                raise UserError("the arithmetic leads to whole numbers that are too large.")
            answer = function(*(array.astype(np.int64) for array in arrays))
    return answer if answer.ndim else answer.item()


def _has_fractions(function: np.ufunc, arrays: Sequence[np.ndarray]) -> bool:
    """Whether the result must be float64. So is that of a division by zero, as in pandas: infinite, or not a number."""
    if function is np.true_divide or any(array.dtype.kind == "f" for array in arrays):
        return True
    if function in (np.floor_divide, np.remainder):
        return not arrays[1].all()
    return function is np.power and bool((arrays[1] < 0).any())


# ----------------------------------------------------------------------------------------------------------------------
# Methods. Their parameters have the names that they have in pandas.
# ----------------------------------------------------------------------------------------------------------------------


class _Method(NamedTuple):
    """A method of columns: the kinds of column that have it, what computes it, and how it is written."""

    kinds: tuple[str, ...]
    function: Callable[..., Value]
    example: str


def _call(name: str, value: Value, by_place: list[Value], by_name: dict[str, Value]) -> Value:
    method = _METHODS[name]
    if not isinstance(value, np.ndarray) or _kind(value) not in method.kinds:
        hint = '; an empty cell of text is ""' if name in ("isna", "notna", "isnull", "notnull") else ""
        raise UserError(f"{name} is a method of columns of {' or '.join(method.kinds)}, not of {_kind(value)}{hint}.")
    try:
        inspect.signature(method.function).bind(value, *by_place, **by_name)
    except TypeError:
        raise _bad_arguments(name) from None
    return method.function(value, *by_place, **by_name)


def _bad_arguments(name: str) -> UserError:
    return UserError(f"{name} does not take these arguments; write it like {_METHODS[name].example}.")


def _contains(
    column: np.ndarray, pat: Value, case: Value = True, *, regex: Value | None = None, na: Value = False
) -> np.ndarray:
    """Whether the text is somewhere in the cell.

    In pandas it is a regular expression, of which some take for ever. A text that means something else as one is
    refused, rather than silently found elsewhere than it used to be, unless the user says that it is none.
    """
    if not isinstance(pat, str) or not isinstance(case, bool) or not (regex is None or isinstance(regex, bool)):
        raise _bad_arguments("str.contains")
    special = sorted(set(pat) & set(".^$*+?{}[]\\|()"))
    if special and regex is not False:
        raise UserError(
            f"str.contains has no regular expressions; add regex=False to look for {special[0]!r} as it is, and join "
            "several texts with or."
        )
    if case:
        return np.array([pat in cell for cell in column.tolist()], dtype=bool)
    folded = pat.casefold()
    return np.array([folded in cell.casefold() for cell in column.tolist()], dtype=bool)


def _starts(column: np.ndarray, pat: Value, na: Value = False) -> np.ndarray:
    if not isinstance(pat, str):
        raise _bad_arguments("str.startswith")
    return np.array([cell.startswith(pat) for cell in column.tolist()], dtype=bool)


def _ends(column: np.ndarray, pat: Value, na: Value = False) -> np.ndarray:
    if not isinstance(pat, str):
        raise _bad_arguments("str.endswith")
    return np.array([cell.endswith(pat) for cell in column.tolist()], dtype=bool)


def _changed(change: Callable[[str], str]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda column: np.array([change(cell) for cell in column.tolist()], dtype=str)


def _lengths(column: np.ndarray) -> np.ndarray:
    return np.array([len(cell) for cell in column.tolist()], dtype=np.int64)


def _is_one_of(column: np.ndarray, values: Value) -> np.ndarray:
    if not isinstance(values, list):
        raise _bad_arguments("isin")
    return _is_in(column, values)


def _between(column: np.ndarray, left: Value, right: Value, inclusive: Value = "both") -> Value:
    signs = {"both": (">=", "<="), "left": (">=", "<"), "right": (">", "<="), "neither": (">", "<")}
    if not isinstance(inclusive, str) or inclusive not in signs:
        raise _bad_arguments("between")
    above, below = signs[inclusive]
    return _logic("and", _compare(above, column, left), _compare(below, column, right))


def _is_missing(column: np.ndarray) -> np.ndarray:
    return np.isnan(column.astype(np.float64))


def _is_known(column: np.ndarray) -> np.ndarray:
    return np.logical_not(_is_missing(column))


def _of_known(statistic: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], float]:
    """A number for the whole column, without its missing cells."""

    def compute(column: np.ndarray) -> float:
        known = column[_is_known(column)]
        return statistic(known).item() if len(known) else math.nan

    return compute


_NUMBERS = ("numbers",)
_TEXTS = ("text",)
_NO_TEXTS = ("numbers", "truth values")
_ALL = ("numbers", "text", "truth values")

_METHODS = {
    "str.contains": _Method(_TEXTS, _contains, 'camera.str.contains("A", case=False)'),
    "str.startswith": _Method(_TEXTS, _starts, 'camera.str.startswith("A")'),
    "str.endswith": _Method(_TEXTS, _ends, 'camera.str.endswith("A")'),
    "str.lower": _Method(_TEXTS, _changed(str.lower), 'camera.str.lower() == "a"'),
    "str.upper": _Method(_TEXTS, _changed(str.upper), 'camera.str.upper() == "A"'),
    "str.strip": _Method(_TEXTS, _changed(str.strip), 'camera.str.strip() == "A"'),
    "str.len": _Method(_TEXTS, _lengths, "camera.str.len() > 3"),
    "isin": _Method(_ALL, _is_one_of, "year.isin([2014, 2015])"),
    "between": _Method(_ALL, _between, 'year.between(2014, 2016, inclusive="left")'),
    "isna": _Method(_NO_TEXTS, _is_missing, "year.isna()"),
    "isnull": _Method(_NO_TEXTS, _is_missing, "year.isnull()"),
    "notna": _Method(_NO_TEXTS, _is_known, "year.notna()"),
    "notnull": _Method(_NO_TEXTS, _is_known, "year.notnull()"),
    "abs": _Method(_NUMBERS, lambda column: _calculate(np.absolute, column), "(year - 2015).abs() < 3"),
    "min": _Method(_NUMBERS, _of_known(np.min), "year == year.min()"),
    "max": _Method(_NUMBERS, _of_known(np.max), "year == year.max()"),
    "mean": _Method(_NUMBERS, _of_known(np.mean), "year > year.mean()"),
    "median": _Method(_NUMBERS, _of_known(np.median), "year > year.median()"),
}
"""All that may follow a column and a dot."""
