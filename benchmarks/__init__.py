"""Benchmarks, each runnable alone, and their last results (RESULTS.md)."""

# Statistics are collected and importance is learnt in every iteration, nothing is densified or pruned; photos
# have their full size, and SH their full degree from the third iteration on.
STEADY = {
    **{"densify_from_iter": 10**6, "densify_until_iter": 10**6 + 1, "resolution_schedule": 0},
    **{"importance_from_iter": 1, "prune_until_iter": 10**6 + 100, "iterations": 10**6 + 200},
    "sh_degree_interval": 1,
}
