"""Timings, published figures, pages and checks. Run by hand; see README.md.

(This is a package because Opacus installs a package of the same name.)
"""
