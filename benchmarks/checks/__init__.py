"""Checks of the kit itself that take long or need two versions of it: run by hand."""
