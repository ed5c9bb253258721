"""Scripts that generate pages of docs/. Run by hand."""
