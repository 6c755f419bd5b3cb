"""Named, crash-safe locks between processes on Linux.

A session is any name that processes agree on. Its lock is an exclusive flock(2) on one small file that is never deleted. It belongs to
the process that takes it: the kernel frees it when that process ends, however it ends, so there
are no stale locks and nothing to clean up. A forked child holds nothing.

>>> import os, tempfile
>>> directory = tempfile.mkdtemp()
>>> with SessionLock("nightly-build", directory=directory) as lock:
...     holder("nightly-build", directory=directory).pid == os.getpid()
...     lock.check()  # before a step that must not run twice
True
>>> holder("nightly-build", directory=directory).state
<State.FREE: 0>

If it is already locked (here by this very process, with another object):

>>> with SessionLock("nightly-build", directory=directory):
...     with SessionLock("nightly-build", timeout=0.01, directory=directory):
...         pass  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
session_lock.LockTimeout: [Errno 110] still held by PID ... (this process) after 0.01 s: '/...'

In a program that runs an event loop:

>>> import asyncio
>>> async def main():
...     async with SessionLock("nightly-build", timeout=60, directory=directory) as lock:
...         return lock.held
>>> asyncio.run(main())
True

As a decorator:

>>> @SessionLock("nightly-build", timeout=None, directory=directory)
... def build():
...     return "built"
>>> build()
'built'

The package contains the library itself, libsession_lock.so.0. Set $SESSION_LOCK_LIBRARY to the path of
another one to use that. If there is neither, the dynamic linker looks for it in the usual places.
"""

from ._errors import (
    LockDeadlock,
    LockError,
    LockHeld,
    LockNotOwned,
    LockPermissionError,
    LockStale,
    LockTimeout,
)
from ._holder import Holder, State, holder, path, sessions, version
from ._lock import SessionLock

__all__ = [
    "Holder",
    "LockDeadlock",
    "LockError",
    "LockHeld",
    "LockNotOwned",
    "LockPermissionError",
    "LockStale",
    "LockTimeout",
    "SessionLock",
    "State",
    "holder",
    "path",
    "sessions",
    "version",
]

for _public in (
    Holder,
    LockDeadlock,
    LockError,
    LockHeld,
    LockNotOwned,
    LockPermissionError,
    LockStale,
    LockTimeout,
    SessionLock,
    State,
):
    # Where users find it, and pickle.
    _public.__module__ = __name__
