"""Audits: other questions to what a grading stores, a file for each."""
