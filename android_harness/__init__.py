"""The host's side of a phone or board: push, run, profile and pull over adb; nothing stays changed on the device."""
