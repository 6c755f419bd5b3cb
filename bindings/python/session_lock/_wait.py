"""Waiting in the kernel's queue, in a thread or for an event loop.

The library's wait ends when a signal handler runs in the waiting thread, and the place in the queue
is lost with it. So whoever must stay responsive (the main thread, where Python runs signal handlers;
an event loop) does not wait itself: a thread does, in which all signals are blocked.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from errno import EINTR, EMFILE, ETIMEDOUT
from typing import TYPE_CHECKING, Deque, Dict, Iterator, Optional, Tuple
from weakref import WeakKeyDictionary

from . import _library
from ._library import Handle

if TYPE_CHECKING:
    import asyncio

_SIGNALS = signal.valid_signals()
# The library takes milliseconds in 64 bits; this is more than anybody's lifetime.
_LONGEST_MS = 2**53

File = Tuple[Optional[bytes], bytes]
"""Directory and session."""


def _milliseconds(deadline: Optional[float]) -> int:
    if deadline is None:
        return -1
    # Rounded up: a wait must not end too early.
    return max(0, math.ceil(min((deadline - time.monotonic()) * 1000, _LONGEST_MS)))


def wait_here(file: File, deadline: Optional[float], handle: Handle, cancel_fd: int = -1) -> int:
    """In the calling thread."""
    while True:
        code = _library.wait(*file, _milliseconds(deadline), cancel_fd, handle)
        if code != -EINTR:
            return code
        # Python has run the signal's handler by now. It raised nothing, so we wait on.


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Wait:
    """A wait in a thread of its own. ``near`` becomes readable when it has ended."""

    def __init__(self, file: File, deadline: Optional[float], handle: Handle) -> None:
        self.code: Optional[int] = None
        """What the library has returned, once the wait has ended."""
        self.near, self._far = socket.socketpair()
        self._file, self._deadline, self._handle = file, deadline, handle
        self._given_up = False
        self._pid = os.getpid()
        # A daemon: a program that ends does not wait for a lock.
        self._thread = threading.Thread(target=self._run, name="session-lock", daemon=True)

    def start(self) -> bool:
        """False where no thread can be started: there are too many, or the interpreter is ending."""
        with _signals_blocked():
            try:
                self._thread.start()
                return True
            except RuntimeError:
                self._far.close()
                return False

    def _run(self) -> None:
        code = wait_here(self._file, self._deadline, self._handle, self._far.fileno())
        # In this order, and the reverse of give_up()'s: at least one of the two sees the other, and
        # to release twice does no harm, as no handle is ever given twice.
        self.code = code
        if self._given_up:
            _library.release(self._handle)
        # It is seen even where a forked child has copies of both ends.
        self._far.shutdown(socket.SHUT_WR)
        self._far.close()

    def is_ours(self) -> bool:
        """False in a child that was forked meanwhile, by a signal handler."""
        return self._pid == os.getpid()

    def give_up(self) -> None:
        """Ends the wait, and sees to it that it leaves no lock."""
        if self.is_ours():
            self._given_up = True
            self.near.shutdown(socket.SHUT_WR)
            _library.release(self._handle)

    def close(self, *, ended: bool) -> None:
        """``ended``: the thread has nothing left to do but to end, and is waited for."""
        if ended and self.is_ours() and self._thread.is_alive():
            self._thread.join()
        self.near.close()


@contextmanager
def _wakeup() -> Iterator[Optional[int]]:
    """A descriptor that becomes readable when a signal has come that a Python handler waits for;
    None where there is no descriptor left.

    Python runs handlers between two instructions of the main thread, so a signal that comes just
    before that thread blocks would go unnoticed. (One that never becomes readable where another
    owner of the wake-up descriptor has come first, such as an event loop.)
    """
    try:
        reader, writer = os.pipe()
    except OSError:
        yield None
        return
    try:
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            if before != -1:
                signal.set_wakeup_fd(before)
            yield reader
        finally:
            if before == -1:
                signal.set_wakeup_fd(-1)
    finally:
        os.close(reader)
        os.close(writer)


def wait(file: File, deadline: Optional[float], handle: Handle) -> int:
    """Waits for the lock; signal handlers run meanwhile, and end the wait only by raising.

    EINTR in a child that a signal handler has forked: there is no wait here.
    """
    if threading.current_thread() is not threading.main_thread():
        # No handler runs here. What is blocked here goes to another thread.
        with _signals_blocked():
            return wait_here(file, deadline, handle)
    with _wakeup() as signalled:
        try:
            waiting = None if signalled is None else _Wait(file, deadline, handle)
        except OSError:
            waiting = None
        if waiting is None or signalled is None:
            # No descriptor is left. The library says so, or can do without.
            return wait_here(file, deadline, handle)
        try:
            if not waiting.start():
                return wait_here(file, deadline, handle)
            poll = select.poll()
            poll.register(waiting.near, select.POLLIN)
            poll.register(signalled, select.POLLIN)
            while waiting.code is None and waiting.is_ours():
                for descriptor, _ in poll.poll():
                    if descriptor == signalled:
                        # A child that a handler has forked may have been quicker.
                        with suppress(BlockingIOError):
                            os.read(signalled, 4096)
            return -EINTR if waiting.code is None else waiting.code
        except BaseException:
            waiting.give_up()
            raise
        finally:
            waiting.close(ended=True)


# ---------------------------------------------------------------------------------- event loops


class _Line:
    """The tasks of an event loop that wait for the same lock: the first one's thread stands in the
    kernel's queue for all of them.
    """

    def __init__(self) -> None:
        self.turns: Deque["asyncio.Future[None]"] = deque()

    async def enter(self, deadline: Optional[float]) -> bool:
        """Whether it is the caller's turn by then; who has it must call ``leave``."""
        import asyncio

        turn = asyncio.get_running_loop().create_future()
        self.turns.append(turn)
        if self.turns[0] is turn:
            return True
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            await asyncio.wait([turn], timeout=left)
            if turn.done():
                return True
        except BaseException:
            self._remove(turn)
            raise
        self._remove(turn)
        return False

    def _remove(self, turn: "asyncio.Future[None]") -> None:
        if self.turns[0] is turn:
            self.leave()
        else:
            self.turns.remove(turn)

    def leave(self) -> None:
        self.turns.popleft()
        if self.turns:
            self.turns[0].set_result(None)


_lines: "WeakKeyDictionary[asyncio.AbstractEventLoop, Dict[File, _Line]]" = WeakKeyDictionary()


def is_waited_for(loop: "asyncio.AbstractEventLoop", file: File) -> bool:
    """Whether a task of the loop waits for the lock."""
    return file in _lines.get(loop, ())


async def wait_async(file: File, deadline: Optional[float], handle: Handle) -> int:
    """As wait(), but only the calling task waits."""
    import asyncio

    lines = _lines.setdefault(asyncio.get_running_loop(), {})
    line = lines.setdefault(file, _Line())
    try:
        if not await line.enter(deadline):
            return -ETIMEDOUT
        try:
            return await _wait_first(file, deadline, handle)
        finally:
            line.leave()
    finally:
        if not line.turns:
            lines.pop(file, None)


async def _wait_first(file: File, deadline: Optional[float], handle: Handle) -> int:
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        waiting = _Wait(file, deadline, handle)
    except OSError as error:
        return -(error.errno or EMFILE)
    ended = loop.create_future()

    def end() -> None:
        loop.remove_reader(waiting.near)
        ended.set_result(None)

    loop.add_reader(waiting.near, end)
    try:
        if not waiting.start():
            raise RuntimeError("can't start new thread")
        # Unlike an `await` of the future itself, this does not cancel it with the task.
        await asyncio.wait([ended])
    except asyncio.CancelledError:
        waiting.give_up()
        # Nothing must be left behind. It takes a millisecond.
        await asyncio.wait([ended])
        raise
    except BaseException:
        waiting.give_up()
        raise
    finally:
        if not loop.is_closed():
            loop.remove_reader(waiting.near)
        waiting.close(ended=ended.done())
    assert waiting.code is not None
    return waiting.code
