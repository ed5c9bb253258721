"""Timings, side by side with the ordinary way: run by hand."""
