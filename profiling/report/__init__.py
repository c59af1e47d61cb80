"""`report`: one HTML page of a run, or of runs side by side.

A new picture goes into `pictures`, into `page`, which draws it, and into page.html, which places it.
"""
