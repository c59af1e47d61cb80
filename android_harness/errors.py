"""What can go wrong between host and device, each with the exit code of its own."""

from __future__ import annotations

from signatures.errors import AdabetError


class DeviceError(AdabetError):
    """Base of what concerns one device; the session puts its name before the message."""


class NoDeviceError(DeviceError):
    """No device answers under the given serial or address."""

    exit_code = 10


class UnauthorisedError(DeviceError):
    """The device does not accept our key."""

    exit_code = 11


class ConnectionLostError(DeviceError):
    """The device answered before, and does not come back."""

    exit_code = 12


class DeviceFullError(DeviceError):
    """There is no room left on the device."""

    exit_code = 13


class KilledError(DeviceError):
    """The system ended the run on the device."""

    exit_code = 14


class TimedOutError(DeviceError):
    """The run took longer than it may."""

    exit_code = 15


class ThrottledError(DeviceError):
    """Every repeat was throttled or swapped: there is nothing to average."""

    exit_code = 16


class WrongAbiError(DeviceError):
    """No interpreter is built for the device's processor or Python."""

    exit_code = 17


class MissingPackageError(DeviceError):
    """The device lacks Python or a package of it; the message has the line that installs it."""

    exit_code = 18


class DeviceAnswerError(DeviceError):
    """The device answered something that it should not have."""

    exit_code = 3
