"""Timings, side by side with the usual way to do it. Run by hand."""
