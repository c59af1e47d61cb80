"""The RSA keys by which a device knows this host: those of adb itself, in ~/.android."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adb_shell.auth import keygen
from adb_shell.auth.sign_cryptography import CryptographySigner

from signatures.errors import CapabilityError, InputError

DEFAULT_FOLDER = Path.home() / ".android"
NAME = "adbkey"


def signers(folder: Path) -> list[Any]:
    """The key in `folder`, made there if it holds none, as adb does: what was accepted for adb is accepted for us.

    Raises InputError for a file that is no RSA key, CapabilityError where none can be made.
    """
    private = folder / NAME
    public = folder / f"{NAME}.pub"
    try:
        if not private.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = folder / f"{NAME}.new"
            previous = os.umask(0o077)  # the library creates the file with what the umask leaves
            try:
                keygen.keygen(str(made))
            finally:
                os.umask(previous)
            made.with_name(made.name + ".pub").replace(public)
            made.replace(private)
        elif not public.exists():
            keygen.write_public_keyfile(str(private), str(public))
    except OSError as error:
        raise CapabilityError(
            f"cannot make a key in {folder}: {error.strerror}; name another folder by --keys"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:  # the library expects an RSA key without a passphrase
        raise InputError(f"{private} is not an RSA key ({error}); name another folder by --keys") from None
    try:
        return [CryptographySigner(str(private))]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{private} cannot be used as a key ({error}); name another folder by --keys") from None
