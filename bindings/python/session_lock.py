"""At most one process at a time works on a session.

A session's lock is an exclusive flock(2) on one small file that is never deleted. It belongs to
the process that takes it: the kernel frees it when that process ends, however it ends, so there
are no stale locks and nothing to clean up. A forked child holds nothing.

>>> import tempfile
>>> directory = tempfile.mkdtemp()
>>> with SessionLock("nightly-build", directory=directory) as lock:
...     holder("nightly-build", directory=directory).pid == os.getpid()
...     lock.check()  # before the step that must not run twice
True
>>> holder("nightly-build", directory=directory).state
<State.FREE: 0>

Somebody else is at it (here: this very process, by another object):

>>> with SessionLock("nightly-build", directory=directory):
...     with SessionLock("nightly-build", timeout=0.01, directory=directory):
...         pass
Traceback (most recent call last):
    ...
session_lock.LockTimeout: [Errno 110] still locked when the time ran out: 'nightly-build'

This one file is all there is to install beside the library, libsession_lock.so.0, which is looked
for in $SESSION_LOCK_LIBRARY (its path), next to this file, and where the dynamic linker looks.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import math
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Dict, Iterator, Optional, Type, Union

__all__ = [
    "Holder",
    "LockError",
    "LockHeld",
    "LockNotOwned",
    "LockStale",
    "LockTimeout",
    "SessionLock",
    "State",
    "holder",
    "path",
    "version",
]

Name = Union[str, bytes]
Directory = Union[str, bytes, "os.PathLike[str]", None]


class LockError(OSError):
    """Why a call failed: OSError with the library's ``errno`` and the session as ``filename``."""

    _text: Optional[str] = None


class LockHeld(LockError):
    """Somebody else holds the lock."""

    _text = "locked by another holder"


class LockTimeout(LockHeld, TimeoutError):
    """Somebody else still held the lock when the time ran out."""

    _text = "still locked when the time ran out"


class LockStale(LockError):
    """The lock file was deleted or replaced while it was locked: exclusion may have been lost."""

    _text = "the lock file was deleted or replaced while it was locked"


class LockNotOwned(LockError):
    """The lock belongs to the process that this one was forked from."""

    _text = "the lock belongs to the parent process"


class State(enum.IntEnum):
    """Whether a session is locked."""

    FREE = 0
    HELD = 1
    UNKNOWN = 2


@dataclass(frozen=True)
class Holder:
    """Who holds a session's lock. It can be out of date at once: never gate on it."""

    state: State
    pid: Optional[int]
    """Who took the lock; None if that process is not visible from here."""
    orphaned: bool
    """That process is dead, and one that it started still holds the lock."""
    confirmed: bool
    """The kernel's lock table says so; otherwise only the label in the file does."""
    acquired_at: Optional[datetime]
    command: str
    """At most 63 bytes; "" if unknown. Written by another process: it may be anything."""
    host: str

    def __str__(self) -> str:
        if self.state is not State.HELD:
            return self.state.name.lower()
        command = "".join(c if c.isprintable() else "?" for c in self.command)
        return f"PID {self.pid or 'unknown'} ({command or 'unknown command'})"


class _Info(ctypes.Structure):
    """struct session_lock_holder_info"""

    _fields_ = [
        ("state", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("orphaned", ctypes.c_uint32),
        ("confirmed", ctypes.c_uint32),
        ("acquired_at_ms", ctypes.c_int64),
        ("command", ctypes.c_char * 64),
        ("host", ctypes.c_char * 64),
    ]


def _load() -> ctypes.CDLL:
    soname = "libsession_lock.so.0"
    beside = Path(__file__).with_name(soname)
    library = ctypes.CDLL(
        os.environ.get("SESSION_LOCK_LIBRARY") or (str(beside) if beside.exists() else soname)
    )
    text, handle = ctypes.c_char_p, ctypes.c_uint64
    for name, arguments in {
        "acquire": [text, text, ctypes.POINTER(handle)],
        "wait": [text, text, ctypes.c_int64, ctypes.c_int, ctypes.POINTER(handle)],
        "release": [handle],
        "check": [handle],
        "holder": [text, text, ctypes.POINTER(_Info), ctypes.c_size_t],
        "path": [text, text, text, ctypes.c_size_t],
    }.items():
        getattr(library, f"session_lock_{name}").argtypes = arguments
    library.session_lock_version.argtypes = []
    library.session_lock_version.restype = text
    return library


_library = _load()

_ERRORS: Dict[int, Type[LockError]] = {
    errno.EWOULDBLOCK: LockHeld,
    errno.ETIMEDOUT: LockTimeout,
    errno.ESTALE: LockStale,
}
# Of a lock that one has, "not permitted" says whose it is.
_ERRORS_OF_HELD = {**_ERRORS, errno.EPERM: LockNotOwned}


def _check(code: int, session: bytes, errors: Dict[int, Type[LockError]] = _ERRORS) -> None:
    if code != 0:
        error = errors.get(-code, LockError)
        raise error(-code, error._text or os.strerror(-code), os.fsdecode(session))


def _encode(text: Name) -> bytes:
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        # A C string would end there: another session.
        raise ValueError("embedded null byte")
    return encoded


def _encode_directory(directory: Directory) -> Optional[bytes]:
    return None if directory is None else _encode(os.fspath(directory))


@contextmanager
def _wakeup() -> Iterator[int]:
    """A descriptor that becomes readable when a signal has come that a Python handler waits for.

    Python runs handlers between two instructions of the main thread, so a signal that comes just
    before that thread blocks would go unnoticed until the lock is free. (-1 where there is nothing
    to notice, or where another owner of the wake-up descriptor has come first.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield -1
        return
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            if before != -1:
                signal.set_wakeup_fd(before)
            yield -1 if before != -1 else reader
        finally:
            if before == -1:
                signal.set_wakeup_fd(-1)
    finally:
        os.close(reader)
        os.close(writer)


class SessionLock:
    """The lock of a session: ``with SessionLock("nightly-build"): ...``

    ``timeout`` is how many seconds to wait for it: 0 (one try, LockHeld), a number (LockTimeout),
    or None (as long as it takes). The wait is in the kernel's queue; Ctrl-C ends it.

    ``directory`` is where the lock files are: None for $SESSION_LOCK_DIR or the user's default.
    """

    def __init__(
        self, session: Name, *, timeout: Optional[float] = 0, directory: Directory = None
    ) -> None:
        self.session = session
        self.timeout = timeout
        self._session = _encode(session)
        self._directory = _encode_directory(directory)
        self._handle = ctypes.c_uint64(0)

    def acquire(self) -> None:
        """Take the lock, or raise LockHeld, LockTimeout or another LockError."""
        if self._handle.value:
            raise RuntimeError(f"this object holds {self.session!r} already")
        code = _library.session_lock_acquire(self._directory, self._session, self._handle)
        if code == -errno.EWOULDBLOCK and self.timeout != 0:
            code = self._wait()
        _check(code, self._session)

    def _wait(self) -> int:
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        with _wakeup() as signalled:
            while True:
                left = -1
                if deadline is not None:
                    left = max(0, math.ceil((deadline - time.monotonic()) * 1000))
                code: int = _library.session_lock_wait(
                    self._directory, self._session, left, signalled, self._handle
                )
                if code == -errno.ECANCELED:
                    os.read(signalled, 4096)
                elif code != -errno.EINTR:
                    return code
                # Python has run the signal's handler by now. It raised nothing, so we wait on.

    def check(self) -> None:
        """Raise LockStale if the file was deleted or replaced: then others do not see this lock.

        To be called before a step that must not run twice.
        """
        _check(_library.session_lock_check(self._handle), self._session, _ERRORS_OF_HELD)

    def release(self) -> None:
        """Free the lock; LockStale as in check(), but it is released all the same."""
        handle, self._handle = self._handle, ctypes.c_uint64(0)
        _check(_library.session_lock_release(handle), self._session, _ERRORS_OF_HELD)

    def __enter__(self) -> SessionLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        try:
            self.release()
        except LockNotOwned:
            pass  # a forked child leaves its parent's block
        except LockError:
            if error is None:
                raise

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _library.session_lock_release(self._handle)


def holder(session: Name, *, directory: Directory = None) -> Holder:
    """Who holds the session's lock? Asking never takes it, and creates nothing."""
    name, info = _encode(session), _Info()
    code = _library.session_lock_holder(
        _encode_directory(directory), name, info, ctypes.sizeof(info)
    )
    _check(code, name)
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
    )


def path(session: Name, *, directory: Directory = None) -> Path:
    """The session's lock file, for use with other tools."""
    name, buffer = _encode(session), ctypes.create_string_buffer(4096)
    _check(
        _library.session_lock_path(_encode_directory(directory), name, buffer, len(buffer)), name
    )
    return Path(os.fsdecode(buffer.value))


def version() -> str:
    """The library's version.

    >>> version().count(".")
    2
    """
    text: bytes = _library.session_lock_version()
    return text.decode()
