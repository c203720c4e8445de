"""Other libraries that keep conversations, each driven by a program of its own in an environment of its own.

`worker.py` and what stands beside it run there, where perdure is not installed; `process.py` starts them from here.
"""
