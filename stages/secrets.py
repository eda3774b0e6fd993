"""Encrypts the secrets of orgs and workspaces with the keys of a file: one a line, the first is current. Never logs a key or a secret.

SecretsError         no key fits a secret, or no file of keys can be made
└── KeysFileError    the file of keys can't be used: wrong settings, exit code 2
"""

import os
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import platformdirs
import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from stages.errors import TurnoutError, UsageError

log = structlog.get_logger()

KEYS_FILE_VARIABLE: Final = "TURNOUT_SECRET_KEYS_FILE"


class SecretsError(TurnoutError):
    """No key fits, or none can be had. `str()` is one clear line and says how to mend it."""


class KeysFileError(SecretsError):
    """The file of keys is missing, can't be read, or holds something else."""

    exit_code = UsageError.exit_code


class Secrets:
    """Fernet (AES-128-CBC and HMAC) under the first key; reads what any of the keys wrote."""

    def __init__(self, keys: Sequence[str], origin: str) -> None:
        fernets = [Fernet(key) for key in keys]
        self._first, self._fernet = fernets[0], MultiFernet(fernets)
        self._origin = origin

    def __repr__(self) -> str:
        return f"Secrets({self._origin!r})"

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """Raises SecretsError."""
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise SecretsError(
                f"no key of {self._origin} fits a stored secret: use the keys file that the settings were applied with, or apply the settings again"
            ) from None

    def renewed(self, token: str) -> str:
        """The same secret under the first key: `token` itself where it is so already. Raises SecretsError."""
        try:
            self._first.decrypt(token.encode())
        except (InvalidToken, UnicodeError):
            return self.encrypt(self.decrypt(token))
        return token


def new_key() -> str:
    """A line for the keys file."""
    return Fernet.generate_key().decode()


def default_file() -> Path:
    """Where the keys are kept if nobody says otherwise: the user's data directory."""
    return platformdirs.user_data_path("turnout") / "secret-keys"


def load(path: Path | None) -> Secrets:
    """The keys of `path`; of the default file if None, which is made on first use. Raises KeysFileError, SecretsError."""
    if path is not None:
        return _read(path)
    path = default_file()
    if not path.exists():
        _make(path)
    return _read(path)


def _read(path: Path) -> Secrets:
    try:
        text = path.read_text("ascii")
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise KeysFileError(f"there is no keys file {path}: make one with `turnout keys new > {path}` (mode 0600)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeysFileError(f"the keys file {path} can't be read: {error}") from None
    if mode & 0o077:
        log.warning("others may read the keys file", path=str(path), mode=f"{mode:04o}", mend=f"chmod 600 {path}")
    return Secrets(_keys(path, text), str(path))


def _keys(path: Path, text: str) -> list[str]:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        try:
            Fernet(key)
        except ValueError:
            raise KeysFileError(f"{path}:{number}: not a key; `turnout keys new` prints one") from None
        keys.append(key)
    if not keys:
        raise KeysFileError(f"the keys file {path} holds no key: add one with `turnout keys new >> {path}`")
    return keys


def _make(path: Path) -> None:
    """Makes the file with one key. Of many processes that do this at once one wins, and all read its key."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(new_key() + "\n")
                file.flush()
                os.fsync(file.fileno())
            # A link never overwrites, and what it names is whole: nobody can read half a key.
            os.link(draft, path)
            log.info("made a file of keys that encrypt secrets; keep it", path=str(path))
        except FileExistsError:
            pass  # another process was first: its key counts
        finally:
            draft.unlink()
    except OSError as error:
        raise SecretsError(f"can't make the keys file {path}: {error}; name one with {KEYS_FILE_VARIABLE}") from None
