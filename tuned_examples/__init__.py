"""Tuned examples; a package so that they are installed with the rest."""
