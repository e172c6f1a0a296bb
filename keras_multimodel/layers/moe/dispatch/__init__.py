"""How tokens reach their experts, one file per way of grouping them.

`sparse_feed_forward.py` is the entry, which picks a way. May import ops.
"""
