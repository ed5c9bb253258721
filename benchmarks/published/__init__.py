"""Published figures and comparisons, made again: run by hand."""
