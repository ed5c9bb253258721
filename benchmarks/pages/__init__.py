"""Scripts that make pages of docs/: run by hand."""
