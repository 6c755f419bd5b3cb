"""The lock."""

from __future__ import annotations

import ctypes
import errno
import functools
import inspect
import math
import os
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, NoReturn, Optional, Tuple, Type, TypeVar, Union, cast

from . import _library, _wait
from ._errors import LockError, LockNotOwned, failure, not_owned
from ._holder import Holder, State, ask
from ._library import Directory, Handle, Name

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Self = TypeVar("_Self", bound="SessionLock")

_OWN = object()
"""The time-out that the object was made with."""


class _Thread(threading.local):
    """One thread. Its number (``get_ident``) is given to another one once it ends."""

    def __init__(self) -> None:
        self.identity = object()


class _Hold(Handle):
    """One owner's hold on the lock."""

    count = 1


# The process, and in it the task or else the thread. So a forked child owns nothing of its parent's.
_Owner = Tuple[int, object]

_thread = _Thread()
# All holds, by their id(): each with its thread.
_held: Dict[int, Tuple[object, _Owner, _wait.File, _Hold]] = {}
_modules, _pid = sys.modules, os.getpid


def _owner() -> _Owner:
    events = _modules.get("asyncio.events")
    if events is not None and events._get_running_loop() is not None:
        task = _modules["asyncio"].current_task()
        if task is not None:
            return _pid(), weakref.ref(task)
    return _pid(), _thread.identity


def _has_ended(owner: _Owner) -> bool:
    """Whether it is a task that has ended."""
    pid, who = owner
    if pid != _pid() or not isinstance(who, weakref.ref):
        return False
    task = who()
    return task is None or task.done()


def _seconds(timeout: Optional[float]) -> Optional[float]:
    """None: for ever."""
    if timeout is None:
        return None
    if isinstance(timeout, bool):
        raise TypeError("timeout is a number of seconds or None, not a bool")
    if not (timeout >= 0 or timeout == -1):  # nor is NaN
        raise ValueError(f"timeout must be None, -1, or a number of seconds from 0 on: {timeout!r}")
    return None if timeout == -1 or timeout == math.inf else timeout


class SessionLock:
    """The lock of a session: ``with SessionLock("nightly-build"): ...``

    ``timeout`` is how many seconds to wait for it: 0 (one try, or LockHeld), a number (LockTimeout),
    or None, -1 or infinity (as long as it takes). The wait is in the kernel's queue. Signal
    handlers run meanwhile; Ctrl-C ends it.

    ``directory`` is where the lock files are: None for $SESSION_LOCK_DIR or the user's default.

    ``on_wait`` is called with the Holder when a wait begins: ``on_wait=print``.

    An object behaves like ``threading.RLock``: threads may share it, and wait for each other; the one
    that holds it may acquire it again, and releases it as often. A forked child holds nothing.

    With asyncio, ``async with SessionLock(...)`` lets only the task wait. It is then the task that
    holds the lock.

    As a decorator (``@SessionLock("nightly-build")``) of a function, ``async`` or not, it is held
    during each call.
    """

    def __init__(
        self,
        session: Name,
        *,
        timeout: Optional[float] = 0,
        directory: Directory = None,
        on_wait: Optional[Callable[[Holder], object]] = None,
    ) -> None:
        self._holds: Dict[_Owner, _Hold] = {}
        self._name = session
        self._file = _library.encode_directory(directory), _library.encode_session(session)
        self.timeout = timeout
        self.on_wait = on_wait

    @classmethod
    def for_file(
        cls: Type[_Self],
        path: Union[str, bytes, "os.PathLike[str]"],
        *,
        timeout: Optional[float] = 0,
        on_wait: Optional[Callable[[Holder], object]] = None,
    ) -> _Self:
        """The lock on this very file, which other tools lock with ``flock``, too.

        The file must be named like a session's: ``NAME.lock``, with letters, digits, ``_``, ``-``,
        ``.`` and ``%XX``. ValueError otherwise.

        >>> SessionLock.for_file("/var/lock/app/nightly.lock").session
        'nightly'
        """
        encoded = os.fsencode(path)
        directory, name = os.path.split(encoded)
        session = _session_of(name)
        try:
            fits = session is not None and _library.path_of(b"/", session) == b"/" + name
        except OSError:
            fits = False
        if not fits:
            raise ValueError(
                f"no session's lock file is called {os.fsdecode(name)!r}: it is NAME.lock, of "
                "letters, digits, '_', '-', '.' (not first) and %XX for any other byte"
            )
        assert session is not None
        return cls(
            os.fsdecode(session), timeout=timeout, directory=directory or b".", on_wait=on_wait
        )

    @property
    def session(self) -> Name:
        """The session's name."""
        return self._name

    @property
    def path(self) -> Path:
        """The lock file."""
        try:
            return Path(os.fsdecode(_library.path_of(*self._file)))
        except OSError as error:
            assert error.errno is not None
            raise failure(-error.errno, *self._file) from None

    @property
    def timeout(self) -> Optional[float]:
        """How many seconds ``acquire`` waits; None: as long as it takes."""
        return self._timeout

    @timeout.setter
    def timeout(self, timeout: Optional[float]) -> None:
        self._timeout = _seconds(timeout)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock through this object, in any thread or task."""
        pid = _pid()
        return any(owner[0] == pid for owner in list(self._holds))

    @property
    def token(self) -> int:
        """A fencing token: larger than that of every earlier holder of the session.

        Pass it to the resource that the lock protects, which can then refuse a holder that lost
        the lock without noticing.
        """
        token = ctypes.c_uint64()
        self._raise_for(_library.token(self._any_hold(), token))
        return token.value

    def check(self) -> None:
        """Raise LockStale if the file was deleted or replaced, so that others do not see this lock.

        Call it before a step that must not run twice, from any thread of the holder's process.
        """
        self._raise_for(_library.check(self._any_hold()))

    # ------------------------------------------------------------------------------- acquiring

    def acquire(self, timeout: Optional[float] = cast(Optional[float], _OWN)) -> bool:
        """Take the lock, or raise LockHeld, LockTimeout or another LockError; always True.

        ``timeout`` as for the class; without it, the object's own.
        """
        seconds = self._timeout if timeout is _OWN else _seconds(timeout)
        owner = _owner()
        hold = self._holds.get(owner)
        if hold is not None:
            hold.count += 1
            return True
        hold = _Hold()
        try:
            code = _library.acquire(*self._file, hold)
            if code != 0:
                if code == -errno.EWOULDBLOCK and seconds != 0:
                    code = _wait.wait(self._file, self._begin_to_wait(seconds, None), hold)
                    if code == -errno.EINTR:
                        # A signal handler has forked, and this is the child.
                        return self.acquire(timeout)
                if code != 0:
                    raise self._failure(code, seconds)
            self._add(owner, hold)
        except BaseException:
            self._undo(owner, hold)
            raise
        return True

    async def acquire_async(self, timeout: Optional[float] = cast(Optional[float], _OWN)) -> bool:
        """Like ``acquire``, but only the calling task waits. Release the lock with ``release``.

        If the task is cancelled, the lock is not taken. All tasks of an event loop that wait for the
        same lock share one thread.
        """
        import asyncio

        seconds = self._timeout if timeout is _OWN else _seconds(timeout)
        owner = _owner()
        hold = self._holds.get(owner)
        if hold is not None:
            hold.count += 1
            return True
        hold = _Hold()
        try:
            code = -errno.EWOULDBLOCK
            # Whoever waits already comes first.
            if seconds == 0 or not _wait.is_waited_for(asyncio.get_running_loop(), self._file):
                code = _library.acquire(*self._file, hold)
            if code == -errno.EWOULDBLOCK and seconds != 0:
                deadline = self._begin_to_wait(seconds, owner)
                code = await _wait.wait_async(self._file, deadline, hold)
            if code != 0:
                raise self._failure(code, seconds)
            self._add(owner, hold)
        except BaseException:
            self._undo(owner, hold)
            raise
        return True

    def _add(self, owner: _Owner, hold: _Hold) -> None:
        self._holds[owner] = hold
        _held[id(hold)] = _thread.identity, owner, self._file, hold

    def _undo(self, owner: _Owner, hold: _Hold) -> None:
        """After a failure, Ctrl-C included, which can come anywhere."""
        if self._holds.get(owner) is hold:
            del self._holds[owner]
        _held.pop(id(hold), None)
        _library.release(hold)  # no harm is done where there is nothing to release

    def _begin_to_wait(
        self, seconds: Optional[float], task: Optional[_Owner]
    ) -> Optional[float]:
        """The deadline. ``task`` is what waits, if it is not the whole thread."""
        deadline = None if seconds is None else time.monotonic() + seconds
        if seconds is None:
            self._refuse_deadlock(task)
        if self.on_wait is not None:
            self.on_wait(ask(*self._file))
        return deadline

    def _refuse_deadlock(self, task: Optional[_Owner]) -> None:
        """Raises LockDeadlock if the holder cannot go on until this wait has ended."""
        for thread, owner, file, hold in list(_held.values()):
            if thread is not _thread.identity:
                continue
            # A waiting task stops only itself, and what runs the loop.
            goes_on = task is not None and isinstance(owner[1], weakref.ref) and owner != task
            if not goes_on and self._is_held_by(file, hold):
                who = "thread" if task is None else "task"
                text = f"this {who} holds the lock already, so this wait would never end"
                raise failure(-errno.EDEADLK, *self._file, text)

    def _is_held_by(self, file: _wait.File, hold: _Hold) -> bool:
        try:
            theirs, ours = _library.path_of(*file), _library.path_of(*self._file)
            if not os.path.samefile(theirs, ours):
                return False
        except OSError:
            return False
        return _library.check(hold) == 0

    def _failure(self, code: int, seconds: Optional[float]) -> LockError:
        text = None
        if code in (-errno.EWOULDBLOCK, -errno.ETIMEDOUT):
            try:
                who = ask(*self._file)
            except LockError:
                text = "held"
            else:
                text = f"held by {who}" if who.state is State.HELD else "held by another holder"
            if code == -errno.ETIMEDOUT:
                text = f"still {text} after {seconds:g} s"
        return failure(code, *self._file, text)

    # ------------------------------------------------------------------------------- releasing

    def release(self) -> None:
        """Release the lock, once for each ``acquire``; LockNotOwned if the caller does not hold it.

        LockStale as for ``check``, but the lock is released all the same.
        """
        owner = _owner()
        hold = self._holds.get(owner)
        if hold is None:
            owner, hold = self._left_behind()
        if hold.count > 1:
            hold.count -= 1
            return
        # First, for others may get the lock as soon as it is free.
        del self._holds[owner]
        _held.pop(id(hold), None)
        code = _library.release(hold)
        if code != 0:
            self._raise_for(code)

    def _left_behind(self) -> Tuple[_Owner, _Hold]:
        """A task that has ended while it held the lock: ``asyncio.wait_for`` before Python 3.12
        acquires in a task of its own.
        """
        for owner, hold in list(self._holds.items()):
            if _has_ended(owner):
                return owner, hold
        raise self._not_owned()

    def _any_hold(self) -> _Hold:
        hold = self._holds.get(_owner())
        if hold is not None:
            return hold
        pid = _pid()
        for owner, hold in list(self._holds.items()):
            if owner[0] == pid:
                return hold
        raise self._not_owned()

    def _not_owned(self) -> LockNotOwned:
        if self.held:
            text = "another thread or task of this process holds the lock"
        elif self._holds:
            text = "the lock belongs to the parent process"
        else:
            text = "the lock is not held by this object"
        return not_owned(*self._file, text)

    def _raise_for(self, code: int) -> None:
        if code == -errno.EPERM:
            raise self._not_owned()
        if code != 0:
            raise failure(code, *self._file)

    # ---------------------------------------------------------------------------- the language

    def __enter__(self: _Self) -> _Self:
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
            # A forked child leaves its parent's block. In the process itself it is a mistake.
            if error is None and (self.held or not self._holds):
                raise
        except LockError as failed:
            if error is None:
                raise
            # It does not hide the block's own error. (Python has notes from 3.11 on.)
            add_note = getattr(error, "add_note", None)
            if add_note is not None:
                add_note(f"and when the lock was released: {failed}")

    async def __aenter__(self: _Self) -> _Self:
        await self.acquire_async()
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: _Function) -> _Function:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator, whose call ends before its body begins: "
                "use `with` inside it"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def locked_async(*args: Any, **kwargs: Any) -> Any:
                async with self:
                    return await function(*args, **kwargs)

            return cast(_Function, locked_async)

        @functools.wraps(function)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(_Function, locked)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__!r} object: a lock has one owner. "
            "Make another object for the same session"
        )

    def __repr__(self) -> str:
        directory = self._file[0]
        where = "" if directory is None else f", directory={os.fsdecode(directory)!r}"
        held = " (held)" if self.held else ""
        return f"<{type(self).__name__} {self._name!r}{where}{held}>"

    def __del__(self) -> None:
        holds = getattr(self, "_holds", None)
        if not holds:
            return
        for owner, hold in list(holds.items()):
            # What a forked child has of its parent's is the parent's.
            if owner[0] == _pid():
                text = f"{self!r} was dropped while held"
                _held.pop(id(hold), None)
                _library.release(hold)
                warnings.warn(text, ResourceWarning, source=self)


def _session_of(file_name: bytes) -> Optional[bytes]:
    """The session whose lock file has that name, if it has one; to be compared with path()."""
    name, suffix = os.path.splitext(file_name)
    first, *rest = name.split(b"%")
    try:
        decoded = [bytes.fromhex(part[:2].decode()) + part[2:] for part in rest]
    except ValueError:
        return None
    session = first + b"".join(decoded)
    return session if suffix == b".lock" and session and b"\0" not in session else None


