"""Who holds a lock, which sessions there are, where their files are."""

from __future__ import annotations

import ctypes
import enum
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from . import _library
from ._errors import failure
from ._library import Directory, Info, Name


class State(enum.IntEnum):
    """Whether a session is locked."""

    FREE = 0
    HELD = 1
    UNKNOWN = 2
    """It cannot be known from here."""


@dataclass(frozen=True)
class Holder:
    """Who holds a session's lock. The answer may be out of date at once: never use it to decide whether
    to go ahead."""

    state: State
    pid: Optional[int]
    """Who took the lock; None if that process is not visible from here."""
    orphaned: bool
    """That process is dead, and one that it started still holds the lock."""
    confirmed: bool
    """The kernel's lock table says so; otherwise only the label in the file does."""
    acquired_at: Optional[datetime]
    """When it was acquired, in UTC; None if unknown."""
    command: str
    """At most 63 bytes; "" if unknown. Written by another process: it may be anything."""
    host: str
    """The holder's host; "" if unknown."""
    waiters: int = 0
    """How many wait in the kernel's queue, as far as visible."""
    suspended: bool = False
    """The holder is stopped (SIGSTOP, Ctrl-Z)."""

    def __str__(self) -> str:
        """For people: control characters of the command are shown as ``?``."""
        if self.state is not State.HELD:
            return self.state.name.lower()
        command = "".join(c if c.isprintable() else "?" for c in self.command)
        notes = [command or "unknown command"]
        if self.pid == os.getpid():
            notes = ["this process"]
        if self.orphaned:
            notes.append("which has ended; a process that it started holds the lock")
        if self.suspended:
            notes.append("suspended")
        return f"PID {self.pid or 'unknown'} ({', '.join(notes)})"


def _holder(info: Info) -> Holder:
    return Holder(
        state=State(info.state),
        pid=info.pid or None,
        orphaned=bool(info.orphaned),
        confirmed=bool(info.confirmed),
        acquired_at=(
            datetime.fromtimestamp(info.acquired_at_ms / 1000, timezone.utc)
            if info.acquired_at_ms
            else None
        ),
        command=os.fsdecode(info.command),
        host=os.fsdecode(info.host),
        waiters=info.waiters,
        suspended=bool(info.suspended),
    )


def ask(directory: Optional[bytes], session: bytes) -> Holder:
    info = Info()
    code = _library.holder(directory, session, info, ctypes.sizeof(info))
    if code != 0:
        raise failure(code, directory, session)
    return _holder(info)


def holder(session: Name, *, directory: Directory = None) -> Holder:
    """Tell who holds the session's lock. Asking never takes it, and creates nothing."""
    return ask(_library.encode_directory(directory), _library.encode_session(session))


def sessions(*, directory: Directory = None) -> Dict[str, Holder]:
    """List every session that has a lock file, and who holds it: held ones first, then by name.

    A name that is not valid text is decoded as file names are (``os.fsdecode``).
    """
    found: List[Tuple[str, Info]] = []

    def visit(_: object, session: bytes, info: int, size: int) -> int:
        known = ctypes.string_at(info, min(size, ctypes.sizeof(Info)))
        found.append((os.fsdecode(session), Info.from_buffer_copy(known.ljust(ctypes.sizeof(Info), b"\0"))))
        return 0

    encoded = _library.encode_directory(directory)
    code = _library.list_(encoded, _library.Visitor(visit), None)
    if code != 0:
        raise failure(code, encoded, None)
    return {session: _holder(info) for session, info in found}


def path(session: Name, *, directory: Directory = None) -> Path:
    """Return the path of the session's lock file, for use with other tools. Creates nothing."""
    encoded, name = _library.encode_directory(directory), _library.encode_session(session)
    try:
        return Path(os.fsdecode(_library.path_of(encoded, name)))
    except OSError as error:
        assert error.errno is not None
        raise failure(-error.errno, encoded, name) from None


def version() -> str:
    """The library's version.

    >>> version().count(".")
    2
    """
    return _library.library_version()
