"""One task of a trained model for other runtimes, in files that need nothing of this library.

May import generation and ops, and TensorFlow; `models/exporting.py` is the entry.
"""
