#!/bin/sh
# ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...
#
# Runs COMMAND while no other process works on SESSION, and publishes what COMMAND has printed: the
# step that must not happen twice, and that happens only if the lock is still held then.
#
# Exit status: COMMAND's; 75 if somebody else has the lock; 125 if the lock is no good; 2 for a wrong
# call.

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

# The helper takes the lock, or says who has it, and becomes the shell below: the holder is that
# shell's PID, and the lock ends when it does.
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
