"""Mutants: each protective mechanism is taken out by a small patch, and the test that is named for it must fail."""
