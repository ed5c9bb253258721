"""Published figures and comparisons, reproduced. Run by hand."""
