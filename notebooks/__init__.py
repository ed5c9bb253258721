"""From a method's `run()` to a notebook that Kaggle executes; `notebook_utils.py` is the way in.

`source.py` reads a Python file, `program.py` finds all files that a method comes from, `extraction.py` follows what
`run()` needs (and `effects.py` what may matter without being named), `refusals.py` says what can't travel, `text.py`
writes it down, `assembly.py` fills the template, `execution.py` runs the notebook and `checks.py` judges what it left.
"""
