"""From the encoded examples of several tasks to one data set of batches.

May import `data.checks` and nothing else of the package.
"""
