# TensorFlow has no annotations, and the stub that type checkers bundle knows an older and smaller
# TensorFlow than the one that runs: half of what it reports is wrong. Here every name exists.
from typing import Any

def __getattr__(name: str) -> Any: ...
