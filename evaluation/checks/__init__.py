"""Pre-flight checks: what makes a score mean nothing, found before the score is believed.

A check is a function of some evidence that gives a `Finding`, or None if all is well. Its file says what it looks at:

    task.py      a task alone
    reload.py    a task that two processes have loaded
    bank.py      outputs of originals and retrained models
    method.py    what a few runs of a method left
    scores.py    logits and epsilons of a grading

To add one, write a function in one of these files and name it in the tuple at the file's end. Its name says what should
hold, its docstring why, and where the failure was seen. `tests/evaluation/checks/` wants two cases of it: one that is
found, and one that is not. Gradings tell what the checks of tasks and scores find; `python main.py check` makes all.
"""
