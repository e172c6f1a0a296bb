"""Preprocessors: one raw example to arrays, and a prediction back to raw form.

May import `data.encoding.bad_examples` and `generation.constraints`.
"""
