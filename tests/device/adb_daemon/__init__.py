"""An ADB daemon for Linux, for tests: answers as a phone's adbd does, for this machine or for a chroot.

`python -m tests.device.adb_daemon --help` says what it takes; process.py starts it for tests. Reference: the sources of
Android 10's adb (protocol.txt, SYNC.TXT, SERVICES.TXT, shell_protocol.h, and adbd where they are silent). Where the two
differ, the module that differs says so.
"""
