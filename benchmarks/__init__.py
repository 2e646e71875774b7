"""Benchmarks, each runnable alone, and their last results (RESULTS.md)."""

# Statistics are collected in every iteration, but nothing is densified; full SH degree from the third one on.
STEADY = {"densify_from_iter": 10**6, "densify_until_iter": 10**6 + 1, "sh_degree_interval": 1}
