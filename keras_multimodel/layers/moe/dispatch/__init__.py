"""How tokens reach their experts, one file per way of doing it.

May import ops.
"""
