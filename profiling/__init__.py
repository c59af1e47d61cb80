"""Host: this runtime beside others, measured; and where its own time goes. Run from the repository, never installed.

One package a subject; each names its commands. What several share lies beside them: `environment` (machine, versions,
commit), `processes` (of our modules), `needs` (packages, folders), `pictures` (how they look), and the one command
that needs no room of its own, `memory_lab`.
"""
