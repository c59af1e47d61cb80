"""What devices print, read: pure functions from text to frozen dataclasses, one subject a file.

All of them take text as a device printed it: with LF or CRLF, cut anywhere, with lines missing, or with `Permission
denied` in the place of a value. What a text does not tell is None (or absent from a tuple); nothing is guessed, and
nothing raises. Which real output they were tried on: tests/android_harness/fixtures/SOURCES.md.
"""

from android_harness.parsers.system import free_bytes

__all__ = ["free_bytes"]
