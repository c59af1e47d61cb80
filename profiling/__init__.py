"""Host: this runtime beside others, measured; and where its own time goes. Run from the repository, never installed."""
