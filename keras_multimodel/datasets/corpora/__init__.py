"""Readers of corpora that users have on disk or in tensorflow-datasets.

May import `data`.
"""
