"""Benchmarks, each runnable alone, and their last results (RESULTS.md)."""

# Statistics are collected and importance is learnt in every iteration, nothing is densified or pruned; full
# SH degree from the third one on.
STEADY = {
    **{"densify_from_iter": 10**6, "densify_until_iter": 10**6 + 1, "sh_degree_interval": 1},
    **{"importance_from_iter": 1, "prune_until_iter": 10**6 + 100, "iterations": 10**6 + 200},
}
