"""From a method's `run()` to a notebook that Kaggle executes; `notebook_utils.py` is the way in.

`source.py` reads a Python file, `extraction.py` follows what `run()` needs, `refusals.py` says what can't travel,
`assembly.py` fills the template, `execution.py` runs the notebook and `checks.py` judges what it left.
"""
