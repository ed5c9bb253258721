"""Side-by-side timings and published figures, run by hand. (A package: Opacus installs one of the same name.)"""
