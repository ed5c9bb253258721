"""`where:` expressions: what they select, equal to pandas where pandas is asked, and that no text can run anything."""

from __future__ import annotations

import contextlib
import time
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import Split, UserError
from data.forget import parse_requests
from data.where import _METHODS, MOST_CHARACTERS, MOST_DEPTH, MOST_OPERATIONS, rows_where

COUNT = 200
NUMBERS = np.arange(COUNT)
COLUMNS: dict[str, np.ndarray] = {
    "person": NUMBERS % 20 + 100,
    "camera": np.array([("Spectralis", "Other", "", "Cirrus 800 (FA)")[i % 7 % 4] for i in NUMBERS]),
    "eye": np.array([("OD", "OS", "Other")[i % 3] for i in NUMBERS]),
    "year": np.where(NUMBERS % 7 == 0, np.nan, 2010 + NUMBERS % 10),
    "left": NUMBERS % 3 == 0,
    "sharp": NUMBERS % 5 == 0,
    "a-b c": NUMBERS % 4,
    "class": NUMBERS % 6 - 3,
}
SPLIT = Split(
    images=torch.zeros(COUNT, 1, 2, 2),
    labels=torch.arange(COUNT) % 4,
    image_ids=np.array([f"train/{i:03d}.png" for i in NUMBERS]),
    columns=COLUMNS,
)
CLASSES = ("a", "b", "c", "d")
TABLE = {**COLUMNS, "label": NUMBERS % 4}
FRAME = pd.DataFrame(TABLE)


def by_pandas(expression: str) -> list[bool]:
    """What pandas answers, the language of `where:` before it had its own evaluator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = FRAME.eval(expression, engine="python", local_dict={}, global_dict={})
    assert answer.dtype == bool
    return answer.tolist()


# ----------------------------------------------------------------------------------------------------------------------
# What is selected
# ----------------------------------------------------------------------------------------------------------------------

AS_IN_PANDAS = [
    'camera == "Spectralis" and year <= 2016',
    "label == 1 & year > 2012",
    "label == 1 | label == 2 & left",
    "left | sharp & label == 1",
    "left or sharp and label == 1",
    "left and not sharp or label == 3",
    "not left and sharp",
    "not label == 1",
    "~left == 1",
    "~left & sharp",
    "~(left | sharp)",
    "left",
    "left == True",
    "left == 1",
    "left > 0",
    "left in [True]",
    "left and True",
    "left + 1 == 2",
    "label == left",
    "1 < label < 3",
    "2011 <= year < 2015 != label",
    "label < person in [101, 102]",
    "label == 1 == left",
    "label > 1 == True",
    "label in [1, 2]",
    "label in (1, 2)",
    "label in (1,)",
    "label not in [1, 2,]",
    "not label in [1, 2]",
    "label in []",
    "label not in ()",
    "label in [1.0, 2.5]",
    "label in [1 + 1, -1]",
    "[1, 2] in label",
    'camera == ["Other", ""]',
    'camera != ["Other", ""]',
    "[1, 2] == label",
    "label != (1, 2)",
    '"Other" == camera',
    "camera == eye",
    "camera < eye",
    'camera > "M"',
    'camera == "Oth" "er"',
    'camera == """Other"""',
    r"camera == 'Oth\x65r' or camera == r'a\b'",
    "-label ** 2 == -4",
    "2 ** 3 ** 0 == label",
    "2 ** -1 == 0.5 and left",
    "label ** 0.5 == 1",
    "- - label == + 1",
    "label % 2 == 1 and left",
    "label % -3 == -1",
    "person // 7 * 7 == person",
    "label - 1 - 1 == 0",
    "label / 2 / 2 == 0.25",
    "label / 0 > 5",
    "label // 0 > 5",
    "label % 0 != label",
    "person % label == 0",
    "1 // label > 0",
    "year * 2 > 4030",
    "person > 10 ** 18",
    "year > 2.0135e3",
    "label == 1_0 or label == .5e1 or label == 2.",
    "`a-b c` == 1 and `class` < 0 and `label` == 1",
    "((label)) == ((1))",
    "label == 1 # and of the others none",
    "year != 2012",
    "not year > 2012",
    "year.isna()",
    "year.isnull() or label.notnull()",
    "year.notna() and left.isna()",
    "year == year.max() or year == year.min()",
    "year > year.median()",
    "year > year.mean() + 1",
    "(year - 2015).abs() < 3",
    "year.between(2011, 2013)",
    'year.between(2011, 2013, inclusive="left")',
    'year.between(left=2011, right=2013, inclusive="neither")',
    'camera.between("A", "P", "right")',
    "label.isin([1, 2])",
    "label.isin(values=(1, 2))",
    "~label.isin([])",
    'camera.str.contains("Oth")',
    'camera.str.contains("oth", case=False, na=False)',
    'camera.str.contains(pat="(FA)", regex=False)',
    'camera.str.startswith("Sp") or camera.str.endswith(")")',
    'camera.str.lower().str.upper() == "OTHER"',
    '(camera.str.strip().str.len() - 3) * 2 > 4 or camera.str.contains("800")',
]


@pytest.mark.parametrize("expression", AS_IN_PANDAS)
def test_an_expression_selects_what_it_selects_in_pandas(expression: str) -> None:
    """Also where `&` and `|` are concerned, chains, missing numbers, lists beside ==, and division by zero."""
    assert rows_where(expression, TABLE).tolist() == by_pandas(expression)


_NUMBERS = st.sampled_from(["label", "person", "year", "`class`", "`a-b c`"])
_NUMERIC = st.recursive(
    _NUMBERS | st.sampled_from(["0", "1", "3", "2012", "0.5"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner),
        # By a column: pandas has Python divide literals, which raises an exception where NumPy has infinity.
        st.builds("({} {} {})".format, inner, st.sampled_from(["/", "//", "%"]), _NUMBERS),
        st.builds("-{}".format, inner),
    ),
    max_leaves=4,
)
_TEXTS = st.sampled_from(["camera", "eye", "camera.str.lower()", '"Other"', "''"])
_SIGNS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_TRUTHS = st.recursive(
    st.one_of(
        st.sampled_from(["left", "sharp", "label in [0, 3]", "eye not in ['OD']", "year.isna()"]),
        # A column first: pandas refuses some comparisons of nothing but literals.
        st.builds("label + {} {} {}".format, _NUMERIC, _SIGNS, _NUMERIC),
        st.builds("{} {} label {} {}".format, _NUMERIC, _SIGNS, _SIGNS, _NUMERIC),
        st.builds("eye {} {}".format, _SIGNS, _TEXTS),
    ),
    lambda inner: st.one_of(
        st.builds("{} {} {}".format, inner, st.sampled_from(["and", "or", "&", "|"]), inner),
        st.builds("not {}".format, inner),
        st.builds("~({})".format, inner),
        st.builds("({})".format, inner),
    ),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(expression=_TRUTHS)
def test_made_up_expressions_select_what_they_select_in_pandas(expression: str) -> None:
    """Operators of all kinds side by side. Catches a precedence that differs."""
    assert rows_where(expression, TABLE).tolist() == by_pandas(expression)


def test_the_examples_of_the_page_work() -> None:
    """Each line of docs/requests.md that begins with where:, on a table with the columns that it has."""
    page = (Path(__file__).parents[2] / "docs" / "requests.md").read_text()
    examples = [line.removeprefix("where:") for line in page.splitlines() if line.startswith("where:")]
    table = {
        **TABLE,
        "image_id": SPLIT.image_ids,
        "person_id": NUMBERS,
        "age": NUMBERS,
        "Cirrus-800-FA": NUMBERS % 2,
    }
    assert len(examples) == 7
    for example_of_page in examples:
        rows_where(example_of_page, table)
    for name in _METHODS:
        assert f"`{name}" in page or name in ("isnull", "notnull")
        assert rows_where(_METHODS[name].example, table).shape == (COUNT,)


def test_the_index_is_that_of_file_requests() -> None:
    """Also where a column of the metadata has the name: then it is the column."""
    assert parse_requests(["where:index in [7, 3] or index >= 198"], SPLIT, CLASSES)[0].indices.tolist() == [
        3,
        7,
        198,
        199,
    ]
    split = Split(SPLIT.images, SPLIT.labels, SPLIT.image_ids, {"index": NUMBERS[::-1]})
    assert parse_requests(["where:index < 2"], split, CLASSES)[0].indices.tolist() == [198, 199]


def test_many_image_ids_fit() -> None:
    """A list of thousands is no long expression."""
    ids = [f"train/{i:03d}.png" for i in range(2500)]
    (request,) = parse_requests([f"where:image_id in {ids[5:]}"], SPLIT, CLASSES)
    assert request.indices.tolist() == list(range(5, COUNT))


@pytest.mark.parametrize("name", ["idée", "µm", "日付", "__x", "año_2"])
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
def test_a_name_may_be_encoded_otherwise(name: str, form: Any) -> None:
    """As file managers and keyboards do it; the letters count."""
    table = {unicodedata.normalize("NFD", name): NUMBERS}
    assert rows_where(f"{unicodedata.normalize(form, name)} == 3", table).sum() == 1
    assert rows_where(f"`{unicodedata.normalize(form, name)}` == 3", table).sum() == 1


def test_texts_that_look_like_code_are_texts() -> None:
    """In quotes and in the names of columns, anything may stand."""
    code = "__import__('os').system('x') @ `"
    table = {code: np.array([code, "b"])}
    quoted = code.replace("`", "``")
    assert rows_where(f'`{quoted}` == "{code}"', table).tolist() == [True, False]


def test_a_column_of_objects_is_text() -> None:
    """A task of one's own may have one; only `read_metadata` promises arrays of text."""
    table = {"kind": np.array(["owl", "cat", 3], dtype=object)}
    assert rows_where('kind.str.len() == 3 and kind < "d" or kind == "3"', table).tolist() == [False, True, True]


def test_counting_what_is_true_is_no_or() -> None:
    """In pandas, `(a + b) == 2` of truth values is never true: + is an or there. Here it is refused."""
    with pytest.raises(UserError, match="needs numbers, not truth values; write and, or, not"):
        rows_where("(label == 1) + left == 2", TABLE)
    assert rows_where("(label == 1) * 1 + left == 2", TABLE).sum() == 16


# ----------------------------------------------------------------------------------------------------------------------
# What is refused
# ----------------------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("yaer > 3", "there is no column 'yaer' (did you mean year or camera?); the columns are person, camera"),
    ("`a-b  c` > 3", "there is no column 'a-b  c' (did you mean `a-b c`?)"),
    ("camera == Other", "there is no column 'Other'"),
    ("year >", "ends too early"),
    ("# year > 3", "ends too early"),
    ("year = 3", "'=' cannot stand at character 6 of the expression; write == to compare"),
    ("year == 3)", "')' cannot stand at character 10"),
    ("(year == 3", "ends too early"),
    ("year == 3 left", "'left' cannot stand at character 11"),
    ("year == not left", "'not' cannot stand at character 9"),
    ('camera == "Other', 'what begins with " at character 11 has no end; close it with "'),
    ("`a-b c == 1", "what begins with ` at character 1 has no end"),
    ("camera == “Other”", "'“' at character 11 has no meaning in an expression"),
    ("label in [1, 2", "ends too early"),
    ("label in [1 2]", "'2' cannot stand at character 13"),
    ("label in [,]", "',' cannot stand at character 11"),
    ("label in 1", "in needs a column and a list, such as"),
    ('"Oth" in camera', 'for a part of a text, write camera.str.contains("A")'),
    ("camera in eye", "in needs a column and a list"),
    ("label in [person, 2]", "a list can only have numbers and texts in it"),
    ("label in [[1], 2]", "a list can only have numbers and texts in it"),
    ('label == "1"', "== cannot compare numbers with text; a text has quotes, and a number has none"),
    ("year > 'a'", "> cannot compare numbers with text"),
    ("camera < 3", "< cannot compare text with numbers"),
    ('left == "True"', "== cannot compare truth values with text"),
    ("label < [1, 2]", "< cannot compare numbers with a list"),
    ('label in [1, "2"]', "a column of numbers cannot have '2' in it"),
    ("camera in ['Other', 3]", "a column of text cannot have 3 in it"),
    ("label and left", "and needs truth values, such as year > 2015, not numbers"),
    ("not label", "not needs truth values"),
    ("~label == 1", "~ needs truth values"),
    ("-left", "the sign - needs numbers, not truth values"),
    ("-camera == 1", "the sign - needs numbers, not text"),
    ("camera + 'x' == 'Otherx'", "+ needs numbers, not text"),
    ("camera * 2 == 'OtherOther'", "* needs numbers, not text"),
    ("label + [1] == 2", "+ needs numbers, not a list"),
    ("year == None", 'an empty cell is COLUMN.isna() among numbers and COLUMN == "" in text'),
    ("label", "not true or false for each image"),
    ("1 == 1", "not true or false for each image"),
    ("True", "not true or false for each image"),
    ("label, 3", "',' cannot stand at character 6"),
    ("(label, 3)", "a list can only have numbers and texts"),
    ("(1, 3)", "not true or false for each image"),
    ("label == 07__1", "07__1 is not a number"),
    ("label == 10000000000000000000", "the number 10000000000000000000 is too large"),
    ("person * 10 ** 17 > 0", "whole numbers that are too large"),
    ("label == 1e999", "the number 1e999 is too large"),
    (r"camera == '\x'", "has a bad escape"),
    ("camera.str.contains('a|b')", "add regex=False to look for '|' as it is, and join several texts with or"),
    ("camera.str.contains('(a+)+$', regex=True)", "str.contains has no regular expressions"),
    ("camera.str.contains(1)", 'does not take these arguments; write it like camera.str.contains("A", case=False)'),
    ("camera.str.contains()", "str.contains does not take these arguments"),
    ("camera.str.contains('a', flags=2)", "str.contains does not take these arguments"),
    ("camera.str.startswith(['a'])", "str.startswith does not take these arguments"),
    ("label.between(1, 'a')", "<= cannot compare numbers with text"),
    ("label.between(1, 2, inclusive='all')", "between does not take these arguments"),
    ("label.isin(person)", "isin does not take these arguments"),
    ("label.isin(3)", "isin does not take these arguments"),
    ("camera.isna()", "isna is a method of columns of numbers or truth values, not of text"),
    ("camera.isna()", 'an empty cell of text is ""'),
    ("label.str.len() == 1", "str.len is a method of columns of text, not of numbers"),
    ("'a'.str.len() == 1", "str.len is a method of columns of text"),
    ("label.isna", "ends too early"),
    ("label.is_na()", "columns have no method 'is_na'; they have str.contains, "),
    ("camera.str == 'a'", "'==' cannot stand at character 12"),
    ("abs(label) == 1", "abs() is not possible: there are no functions, only methods of columns"),
]


@pytest.mark.parametrize(("expression", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence(expression: str, sentence: str) -> None:
    """It shows the request, says what to do, and names the columns."""
    with pytest.raises(UserError) as refused:
        parse_requests([f"where:{expression}"], SPLIT, CLASSES)
    said = str(refused.value)
    assert said.startswith(f"Forget request {f'where:{expression}'!r}: ")
    assert sentence in said
    columns = "person, camera, eye, year, left, sharp, `a-b c`, class, label, class_name, image_id, index"
    assert said.endswith(f"; the columns are {columns}.")
    assert "\n" not in said


def test_only_some_of_many_columns_are_named() -> None:
    """Each of them shortened: a table can be wide, and so can its names."""
    with pytest.raises(UserError) as refused:
        rows_where("x", {**{f"c{i}": NUMBERS for i in range(1000)}})
    assert str(refused.value).endswith("c18, c19 and 980 more.")
    with pytest.raises(UserError) as refused:
        rows_where("x", {"c" * 10**6: NUMBERS, "a\nb": NUMBERS})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


HOSTILE = {
    "an attribute": "label.__class__ == 3",
    "globals": 'label.__init__.__globals__["sys"].modules["os"].system("touch CANARY") == label',
    "a function of a method": 'label.isin.__func__.__globals__["np"].save("CANARY", label) != 3',
    "a method that writes": 'label.to_csv("CANARY") == 3',
    "a method that calls": 'label.pipe(label.__init__.__globals__["__builtins__"]["open"], "CANARY") == 3',
    "a method that applies": "label.map(print) == 3",
    "evaluation in the evaluation": "label.eval('1') == 3",
    "another order": "label.sort_values() == 3",
    "fewer rows": "label.head(3) == 3",
    "a sample": "left.sample(frac=1)",
    "an attribute of a method": "label.isin.__self__ == 3",
    "an attribute of a text": "'a'.__class__ == 3",
    "an attribute of a number": "1 .__class__ == 3",
    "a float's": "1.5.hex() == 3",
    "an attribute of a list": "[].__class__ == 3",
    "format": "'{0.__class__}'.format(label) == 3",
    "str.format": "camera.str.format(label) == 3",
    "an attribute of str": "camera.str.__init__() == 3",
    "str.str": "camera.str.str.len() == 3",
    "values": "label.values == 3",
    "numpy's file": "label.values.tofile('CANARY') == 3",
    "a subscript": "label[0] == label",
    "a subscript of text": "camera.str[0] == 'O'",
    "a slice": "label[::-1] == 3",
    "a lambda": "(lambda: label == 3)()",
    "a comprehension": "[x for x in label] == 3",
    "a generator": "(x for x in label)",
    "a set": "label in {1, 2}",
    "a dict": "{'a': label}['a'] == 3",
    "a conditional": "label == 3 if left else sharp",
    "a walrus": "(x := label) == 3",
    "an assignment": "label = 3",
    "an assignment to an attribute": "label.values = 3",
    "an f-string": "camera == f'{label}'",
    "an f-string that calls": 'camera == f\'{open("CANARY", "w")}\'',
    "bytes": "camera == b'Other'",
    "a local variable": "label == @argument",
    "a local variable's attribute": "@train.labels == 3",
    "pandas' name of it": "__pd_eval_local_argument == 3",
    "a builtin": "open('CANARY', 'w') == label",
    "an import": "__import__('os').system('touch CANARY') == label",
    "eval": "eval('1') == label",
    "a name of pandas": "datetime.now() == label",
    "a type of pandas": "list(label) == 3",
    "a name in a name": "Timestamp.__init__ == label",
    "a starred argument": "label.isin(*[[1]])",
    "two starred arguments": "label.isin(**{'values': [1]})",
    "a keyword with a call": "camera.str.contains('O', case=open('CANARY', 'w'))",
    "a keyword that is none": "label.isin(values=[1], __class__=3)",
    "a keyword twice": "label.isin([1], values=[2])",
    "await": "await label",
    "yield": "(yield label)",
    "statements": "import os; os.system('touch CANARY')",
    "lines": "left\nimport os",
    "a continued line": "left \\\n and sharp",
    "an ellipsis": "label == ...",
    "an arrow": "def f() -> label",
    "a decorator": "@open\ndef f(): pass",
    "a type comment": "left if 1 else # type: ignore",
    "matrix product": "label @ label == 3",
    "a null byte": "label == 3\0",
    "a null byte in a text": "camera == 'a\0b'",
    "a surrogate": "label == \ud800",
    "an unknown escape": "camera == '\\N{nothing}'",
    "full-width underscores": "label.\uff3f\uff3fclass\uff3f\uff3f == 3",
    "another alphabet's letters": "label.__\U0001d4ec\U0001d4f5\U0001d4ea\U0001d4fc\U0001d4fc__ == 3",
    "full-width isin": "label.\uff49\uff53\uff49\uff4e([1])",
    "full-width signs": "label \uff1d\uff1d 3",
    "a full-width call": "\uff4f\uff50\uff45\uff4e('CANARY', 'w') == label",
    "text that runs backwards": "label == 3 \u202e",
    "a space of no width": "la\u200bbel == 3",
    "code in backticks": "`__import__('os').system('touch CANARY')` == 3",
    "an attribute in backticks": "label.`__class__` == 3",
    "pandas' name of a column": "BACKTICK_QUOTED_STRING_a_MINUS_b_c == 3",
    "an empty name": "`` == 3",
    "backticks without end": "`" * 1001,
    "a name of a megabyte": "`" + "x" * 10**6 + "` == 3",
    "a text of 100 kB": "camera == '" + "a" * 10**5 + "'",
    "conditions of 100 kB": " or ".join(["label == 1"] * 7500),
    "as many conditions as fit": " or ".join(["label == 1"] * 3500),
    "methods without end": "camera" + ".str.lower()" * 4000 + " == 'a'",
    "a sum without end": "label" + "+label" * 8000 + " == 3",
    "attributes without end": "label" + ".a" * 20000,
    "deep parentheses": "(" * 20000 + "left" + ")" * 20000,
    "parentheses that stay open": "(" * 40000,
    "deep brackets": "label in " + "[" * 20000 + "]" * 20000,
    "deep lists": "(" * 50 + "1" + ",)" * 50 + " == label",
    "many signs": "-" * 40000 + "label == 3",
    "many nots": "not " * 10000 + "left",
    "powers of powers": "label < " + "2 ** " * 5000 + "2",
    "a tower": "label < 9**9**9**9",
    "10**10**10": "label == 10**10**10",
    "10**400": "label == 10**400",
    "a power of the column": "person ** 10000 == 1",
    "a shift": "label == 1 << 10**10",
    "a number of 40,000 digits": "label == " + "9" * 40000,
    "zeros without end": "label == " + "0" * 40000 + "1",
    "an exponent": "label == 1e" + "9" * 40000,
    "a hexadecimal number": "label == 0x" + "f" * 40000,
    "an imaginary number": "label == 1j",
    "a text that multiplies": "camera == 'a' * 10**10",
    "a column that multiplies": "camera * 10**9 == 'a'",
    "a list that multiplies": "label in [1] * 10**10",
    "a format that multiplies": "camera == '%1000000000d' % 1",
    "a regular expression that takes for ever": "camera.str.contains('(a|aa)+$')",
    "with flags": "camera.str.contains('(?i)(a+)+b', regex=True)",
    "a replacement": "camera.str.replace('(a+)+$', '') == ''",
    "a text that widens": "camera.str.ljust(10**9) == ''",
    "a text that repeats": "camera.str.repeat(10**9) == ''",
    "a text that is centred": "camera.str.center(width=10**9) == ''",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one short sentence; nothing is run, and no file appears. The seconds are far from what a hang would take."""
    monkeypatch.chdir(tmp_path)
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as refused:
            parse_requests([f"where:{HOSTILE[name]}"], SPLIT, CLASSES)
    assert time.process_time() - before < 5
    assert len(str(refused.value)) < 1500
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["globals", "a function of a method", "a method that writes"])
def test_the_hostile_texts_do_run_in_pandas(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the file would appear if somebody evaluated them: the test above can fail."""
    monkeypatch.chdir(tmp_path)
    FRAME.eval(HOSTILE[name], engine="python", local_dict={}, global_dict={})
    assert [file.name[:6] for file in tmp_path.iterdir()] == ["CANARY"]


def test_the_bounds_are_generous() -> None:
    """What fits still works: depth, operations, characters."""
    deep = MOST_DEPTH - 2
    assert rows_where("(" * deep + "left" + ")" * deep, TABLE).sum() == 67
    conditions = " or ".join(["label == 1"] * (MOST_OPERATIONS // 2))
    assert rows_where(conditions, TABLE).sum() == 50
    assert rows_where("left".ljust(MOST_CHARACTERS), TABLE).sum() == 67
    with pytest.raises(UserError, match="write the indices to a file"):
        rows_where("left".ljust(MOST_CHARACTERS + 1), TABLE)


PIECES = r"""
label camera year left ` ' " 'Other' 1 0 2012 1.5 10**9 e9 and or not in True None lambda for if @ __ = f := case= é
__class__ @label ( ) [ ] , . .str .str.contains( .isin( .between( .max() { } : ; \ == != < <= > >= + - * / // % ** & |
~ ^ ! # .__init__ .__globals__ [0] ['sys'] .to_csv('CANARY') open('CANARY','w')
"""
_PIECES = st.sampled_from([*PIECES.split(), "`a-b c`", "\n", "\0", "\ud800", "\u202e", " "])


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(text=st.text() | st.lists(_PIECES, max_size=12).map(" ".join) | st.lists(_PIECES, max_size=8).map("".join))
@example(text="where:label == 0 ** -label")
@example(text="class:" + "1" * 5000)
@example(text="group:label:" + "1" * 5000)
@example(text="random:" + "1" * 5000)
@example(text="x" * 10**6)
def test_no_text_raises_anything_but_a_user_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever it is, and without a warning; where there is an answer, it is one for each row."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        folder = tmp_path_factory.getbasetemp() / "canary"
        folder.mkdir(exist_ok=True)
        patch.chdir(folder)
        for request in (text, f"where:{text}"):
            with contextlib.suppress(UserError):
                parse_requests([request], SPLIT, CLASSES)
        with contextlib.suppress(UserError):
            answer = rows_where(text, TABLE)
            assert answer.dtype == bool
            assert answer.shape == (COUNT,)
        assert list(folder.iterdir()) == []
