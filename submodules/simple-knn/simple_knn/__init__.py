"""Distances to nearest neighbours: `from simple_knn._C import distCUDA2`, as 3DGS code bases import it."""
