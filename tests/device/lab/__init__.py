"""The device in a box: an arm64 Debian root in .work/device-lab, run by this machine through QEMU's user emulation.

`python -m tests.device.lab build` makes it, `check` says whether it is there, `path` where, and `exec` runs a command
beside it with /proc and /dev mounted in it. What it is not: fast, or measured as a board is (docs/devices.md).
"""
