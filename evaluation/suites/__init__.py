"""Suites: several gradings that give a method one number, some for tuning, the others held out."""
