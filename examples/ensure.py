"""ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...

Runs COMMAND while no other process works on SESSION, and publishes what COMMAND has printed: the
step that must not happen twice, and that happens only if the lock is still held then.

Exit status: COMMAND's; 75 if somebody else has the lock; 125 if the lock is no good; 2 for a wrong
call. (If this program is killed, COMMAND lives on, without the lock. To bind the lock to a
command's life there is `session-lock run`.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import List

from session_lock import Holder, LockError, LockHeld, LockStale, SessionLock

USAGE, HELD, FAILED, NOT_EXECUTABLE, NOT_FOUND = 2, 75, 125, 126, 127


def say(session: str, what: str) -> None:
    line = f"ensure: {session}: {what}\n"
    sys.stderr.buffer.write(os.fsencode(line))
    sys.stderr.flush()


def work(lock: SessionLock, command: List[str]) -> int:
    """What is done while the lock is held; the exit status."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        print(f"ensure: {error}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    if done.returncode != 0:
        return done.returncode if done.returncode > 0 else 128 - done.returncode
    lock.check()
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    return 0


def ensure(session: str, wait: float, command: List[str]) -> int:
    def waiting(who: Holder) -> None:
        say(session, f"waiting; holder: {who}")

    try:
        with SessionLock(session, timeout=wait, on_wait=waiting) as lock:
            return work(lock, command)
    except LockHeld as error:
        say(session, f"{error.strerror}")
        return HELD


def main(arguments: List[str]) -> int:
    try:
        session, *rest = arguments
        wait = 0.0
        if rest[0] == "--wait-lock":
            wait = float(rest[1])
            rest = rest[2:]
        dashes, *command = rest
        if dashes != "--" or not command or not 0 <= wait <= 1e9:
            raise ValueError
    except (ValueError, IndexError):
        print("usage: ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...", file=sys.stderr)
        return USAGE
    try:
        return ensure(session, wait, command)
    except LockStale as error:
        say(session, f"not published, the lock was lost: {error.strerror}")
        return FAILED
    except LockError as error:
        say(session, f"{error.strerror}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
