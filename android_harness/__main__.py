"""`python -m android_harness COMMAND`: adapt on a phone or board over adb, and measure it.

stdout carries the result, stderr the conversation. Exit codes beside those of ondevice.adapt, which a failed run hands
on: 10 no device, 11 not authorised, 12 connection lost, 13 device full, 14 killed, 15 timed out, 16 every repeat
throttled or swapped, 17 wrong ABI, 18 package missing, 130 Ctrl-C.
"""

from __future__ import annotations

import sys

from android_harness.command_line import main

sys.exit(main())
