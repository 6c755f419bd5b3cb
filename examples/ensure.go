// Command ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...
//
// It runs COMMAND while no other process holds the lock of SESSION, and then publishes COMMAND's output. That
// step must not run twice, so it only happens if the lock is still held.
//
// Exit status: COMMAND's; 75 if another process has the lock; 125 if the lock fails or was lost; 2 for wrong
// usage. (If this program is killed, COMMAND runs on, without the lock. To tie the lock to the command itself, use
// `session-lock run`.)
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"session-lock.invalid/sessionlock"
)

const (
	usage         = 2
	held          = 75
	failed        = 125
	notExecutable = 126
	notFound      = 127
)

func say(session, what string) {
	fmt.Fprintf(os.Stderr, "ensure: %s: %s\n", session, what)
}

// sayWho: the answer may be out of date; it is for the reader, not for decisions.
func sayWho(session, what string) {
	if holder, err := sessionlock.Holder("", session); err == nil && holder.PID != 0 {
		what = fmt.Sprintf("%s by %v", what, holder)
	}
	say(session, what)
}

// take takes the lock; it waits for it if the timeout is not negative.
func take(session string, wait time.Duration) (*sessionlock.Lock, error) {
	lock, err := sessionlock.Acquire("", session)
	if !errors.Is(err, sessionlock.ErrHeld) || wait < 0 {
		return lock, err
	}
	sayWho(session, "waiting, locked")
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	return sessionlock.Wait(ctx, "", session)
}

// work does the work while the lock is held; it returns the exit status.
func work(lock *sessionlock.Lock, session string, command []string) int {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	output, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
			return 128 + int(status.Signal())
		}
		return exit.ExitCode()
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		say(session, err.Error())
		return notFound
	case err != nil:
		say(session, err.Error())
		return notExecutable
	}
	if err := lock.Check(); err != nil {
		say(session, fmt.Sprintf("not published, the lock was lost: %v", err))
		return failed
	}
	if _, err := os.Stdout.Write(output); err != nil {
		say(session, err.Error())
		return failed
	}
	return 0
}

func ensure(session string, wait time.Duration, command []string) int {
	lock, err := take(session, wait)
	switch {
	case errors.Is(err, sessionlock.ErrHeld):
		sayWho(session, "locked")
		return held
	case errors.Is(err, sessionlock.ErrTimeout):
		sayWho(session, "still locked")
		return held
	case err != nil:
		say(session, err.Error())
		return failed
	}
	defer lock.Release()
	return work(lock, session, command)
}

// parse parses the command line.
func parse(args []string) (session string, wait time.Duration, command []string, ok bool) {
	wait = -1
	if len(args) > 3 && args[1] == "--wait-lock" {
		seconds, err := strconv.ParseFloat(args[2], 64)
		if err != nil || !(seconds >= 0 && seconds <= 1e9) {
			return
		}
		wait = time.Duration(seconds * float64(time.Second))
		args = append(args[:1:1], args[3:]...)
	}
	if len(args) < 3 || args[1] != "--" {
		return
	}
	return args[0], wait, args[2:], true
}

func main() {
	session, wait, command, ok := parse(os.Args[1:])
	if !ok {
		fmt.Fprintln(os.Stderr, "usage: ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...")
		os.Exit(usage)
	}
	os.Exit(ensure(session, wait, command))
}
