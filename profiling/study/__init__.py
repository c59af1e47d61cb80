"""The study: which policy of choosing layers trains best, for what memory and time. See docs/study.md."""
