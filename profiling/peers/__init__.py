"""`frameworks`: a training step of this runtime beside other frameworks', on the same problem.

A new peer is a module `in_…` with `measure(problem, folder)`, and a line in `child`; one with an environment of its own
has a line in `command`, too.
"""
