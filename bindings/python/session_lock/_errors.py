"""What can go wrong, as exceptions of Python's own kinds."""

from __future__ import annotations

import errno
import os
import stat
from typing import Dict, Optional, Type

from . import _library


class LockError(OSError):
    """A call failed. ``errno`` is the library's, ``strerror`` says why, ``filename`` is the lock
    file (the directory for ``sessions()``).
    """


class LockHeld(LockError, BlockingIOError):
    """The lock is held by somebody else, whom ``strerror`` names."""


class LockTimeout(LockHeld, TimeoutError):
    """The lock was still held by somebody else when the time ran out."""


class LockDeadlock(LockError, RuntimeError):
    """The wait could never end: the lock is held by the waiting thread or task itself (through
    another object), or until this very process ends.
    """


class LockStale(LockError):
    """The lock file was deleted or replaced while it was locked: somebody else may have got the
    lock meanwhile.
    """


class LockPermissionError(LockError, PermissionError):
    """The lock file or its directory cannot be opened (EACCES), or is not safe to trust (EPERM)."""


class LockNotOwned(LockPermissionError, RuntimeError):
    """The calling thread or task, or this process, does not hold the lock."""


_KINDS: Dict[int, Type[LockError]] = {
    errno.EWOULDBLOCK: LockHeld,
    errno.ETIMEDOUT: LockTimeout,
    errno.EDEADLK: LockDeadlock,
    errno.ESTALE: LockStale,
    errno.EACCES: LockPermissionError,
    errno.EPERM: LockPermissionError,
}

_TEXTS: Dict[int, str] = {
    errno.EWOULDBLOCK: "held by another holder",
    errno.EDEADLK: "the lock is held until this process ends, so this wait would never end",
    errno.ELOOP: "the lock file is a symbolic link",
    errno.ENAMETOOLONG: "the name of the lock file would be longer than 255 bytes",
    errno.ENODATA: "no token: the lock file's label cannot be read or written",
    errno.ENOTRECOVERABLE: "the library has failed inside",
    errno.EOPNOTSUPP: "this file system cannot lock",
    errno.ESTALE: "the lock file was deleted or replaced while it was locked",
}


def failure(
    code: int, directory: Optional[bytes], session: Optional[bytes], text: Optional[str] = None
) -> LockError:
    """The exception for what a function of the library has returned."""
    number = -code
    filename = directory
    try:
        if session is not None:
            filename = _library.path_of(directory, session)
        elif directory is None:
            filename = os.path.dirname(_library.path_of(None, b"s"))
    except OSError:
        pass  # there is no such path, which is what the call has said, too
    if text is None and number == errno.EPERM:
        if filename is None:
            text = _why_no_default()
        else:
            text = _why_not_trusted(directory, session, filename)
    if text is None:
        text = _TEXTS.get(number) or os.strerror(number)
    kind = _KINDS.get(number, LockError)
    return kind(number, text, None if filename is None else os.fsdecode(filename))


def not_owned(directory: Optional[bytes], session: bytes, text: str) -> LockNotOwned:
    path = os.fsdecode(_library.path_of(directory, session))
    return LockNotOwned(errno.EPERM, text, path)


# The library says EPERM and nothing else. So its rules are applied once more, for the reader.


def _why_no_default() -> str:
    """Why who names no directory gets none."""
    named = os.environ.get("SESSION_LOCK_DIR")
    if not named:
        if not _has_a_number_outside():
            return (
                "the user has no ID outside this user namespace to name the default directory after: "
                "pass directory= or set $SESSION_LOCK_DIR"
            )
        return (
            "this service has a /tmp of its own (PrivateTmp=), so others would not find the lock: "
            "pass directory= or set $SESSION_LOCK_DIR"
        )
    if not named.startswith("/"):
        return f"$SESSION_LOCK_DIR is not an absolute path: {named!r}"
    return "$SESSION_LOCK_DIR is set, and this program runs with raised privileges: pass directory="


def _has_a_number_outside() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as table:
            ranges = [[int(number) for number in line.split()] for line in table]
    except OSError:
        return True
    return any(first <= os.geteuid() < first + count for first, _, count in ranges)


def _why_not_trusted(
    directory: Optional[bytes], session: Optional[bytes], path: bytes
) -> Optional[str]:
    parent = path if session is None else os.path.dirname(path)
    where = os.fsdecode(parent)
    default = directory is None and not os.environ.get("SESSION_LOCK_DIR")
    try:
        found = os.lstat(parent) if default else os.stat(parent)
        if default:
            if stat.S_ISLNK(found.st_mode):
                return f"not safe to trust: {where} is a symbolic link"
            if found.st_uid != os.geteuid():
                return f"not safe to trust: {where} belongs to another user"
            if found.st_mode & 0o077:
                return f"not safe to trust: {where} is open to others (chmod 700)"
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"not safe to trust: everybody can write {where}, which has no sticky bit (chmod +t)"
        if session is None:
            return None
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            return "not safe to trust: the lock file is not a regular file"
        if found.st_nlink > 1:
            return "not safe to trust: the lock file has more than one hard link"
    except OSError:
        pass  # then the system call that failed says it
    return None
