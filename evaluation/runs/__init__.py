"""Running a method: one run in a worker, many runs of a grading, limits, what was prepared."""
