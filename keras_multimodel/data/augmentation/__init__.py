"""Random changes of training inputs, each determined by a seed.

May import `data.mixing.mixture` and `data.checks`, and no layer or model.
"""
