"""Verdicts: which of several methods is better, with as many originals as it takes."""
