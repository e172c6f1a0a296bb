"""Functions of tensors with a branch for each backend, and sums over replicas.

May import nothing else of the package.
"""
