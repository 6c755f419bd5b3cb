"""Waits from Python: wait.py LIBRARY DIR threads | deadline | cancel | endless.

The session "s" in DIR is held by somebody else meanwhile.
"""

import ctypes
import errno
import os
import signal
import sys
import threading

# Whoever has started this may ignore it (nohup, a shell's background job).
signal.signal(signal.SIGINT, signal.default_int_handler)

library, directory, form = sys.argv[1:]
session_lock_wait = ctypes.CDLL(library).session_lock_wait
session_lock_wait.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_int64,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_uint64),
]


def wait(timeout_ms, cancel_fd=-1):
    lock = ctypes.c_uint64(1)
    result = session_lock_wait(directory.encode(), b"s", timeout_ms, cancel_fd, ctypes.byref(lock))
    assert (result == 0) == (lock.value != 0)
    return -result


def threads():
    answers = []
    waiting = [threading.Thread(target=lambda: answers.append(wait(50))) for _ in range(20)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert answers == [errno.ETIMEDOUT] * 20, answers


def interrupted():
    cancel, _keep = os.pipe()
    arguments = {"deadline": (600_000,), "cancel": (-1, cancel), "endless": (-1,)}[form]
    try:
        # A handler that only sets a flag, as Python's does, runs on return: so in a loop.
        while (answer := wait(*arguments)) == errno.EINTR:
            pass
    except KeyboardInterrupt:
        return
    raise AssertionError(f"not interrupted: {answer}")


if form == "threads":
    threads()
else:
    interrupted()
