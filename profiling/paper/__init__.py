"""`figures`: the figures of arXiv 2510.03101, from measurements, and its memory formula."""
