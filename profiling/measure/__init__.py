"""`run`, `compare`, `show`: scenarios measured in fresh processes, their records compared and shown.

A new scenario goes into `scenarios`; a new metric into `metrics`.
"""
