"""A method's process and the trusted one: what goes between them, how a run is watched, and what it may not touch."""
