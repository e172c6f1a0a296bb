"""From raw examples to arrays; bad examples are reported or skipped.

May import `data.preprocessing`.
"""
