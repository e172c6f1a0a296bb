"""Random changes of training inputs, each determined by a seed.

May import `data.mixing.position` and nothing else of the package.
"""
