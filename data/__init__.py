"""Tasks: images, labels, metadata, splits, and which training images are to be forgotten.

`load(TaskSpec("digits"))` gives a `Task`. Loaders are in `data.loaders`, apart, because they import PyTorch.
"""

from __future__ import annotations

from data.errors import UserError
from data.task import Recipe, Request, Split, Task, TaskSpec
from data.tasks import TaskInfo, all_tasks, load, task_info

__all__ = [
    "Recipe",
    "Request",
    "Split",
    "Task",
    "TaskInfo",
    "TaskSpec",
    "UserError",
    "all_tasks",
    "load",
    "task_info",
]
