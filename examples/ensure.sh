#!/bin/sh
# ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...
#
# Runs COMMAND while no other process holds the lock of SESSION, and then publishes COMMAND's output. That
# step must not run twice, so it only happens if the lock is still held.
#
# Exit status: COMMAND's; 75 if another process has the lock; 125 if the lock fails or was lost; 2 for wrong
# usage.

usage() {
    echo 'usage: ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...' >&2
    exit 2
}

session=${1-} seconds=
shift || usage
if [ "${1-}" = --wait-lock ]; then
    seconds=${2-}
    shift 2 || usage
fi
[ "${1-}" = -- ] && [ $# -gt 1 ] || usage
shift

# session-lock takes the lock, or says who has it, and becomes the shell below: that shell is the holder, and
# the lock is free when it ends.
exec session-lock run ${seconds:+--timeout "$seconds"} -- "$session" sh -c '
    output=$(mktemp) || exit 125
    trap "rm -f \"\$output\"" EXIT
    "$@" >"$output" || exit
    if [ "$(session-lock holder -- "$SESSION_LOCK_SESSION")" != $$ ]; then
        printf "ensure: %s: not published, the lock was lost\n" "$SESSION_LOCK_SESSION" >&2
        exit 125
    fi
    cat "$output"
' ensure "$@"
