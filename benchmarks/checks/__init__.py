"""Checks of the kit itself that take long, or that need two versions of it. Run by hand."""
