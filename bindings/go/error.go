//go:build cgo && linux

package sessionlock

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Errors to test for with [errors.Is]. All of them are errnos, as other errors of this package are:
// those of the system call that failed. So errors.Is also knows fs.ErrPermission.
const (
	// ErrHeld means that another holder has the lock.
	ErrHeld = syscall.EWOULDBLOCK
	// ErrTimeout means that the context's deadline passed. errors.Is knows it as
	// context.DeadlineExceeded and os.ErrDeadlineExceeded, too.
	ErrTimeout = syscall.ETIMEDOUT
	// ErrCanceled means that the context was canceled. errors.Is knows it as context.Canceled, too.
	ErrCanceled = syscall.ECANCELED
	// ErrStale means that the lock file was deleted or replaced while it was locked, or that the
	// filesystem took the lock away: exclusion may have been lost.
	ErrStale = syscall.ESTALE
	// ErrReleased means that the lock was released before. errors.Is knows it as fs.ErrClosed, too.
	ErrReleased = syscall.EBADF
	// ErrDeadlock means that the wait could never end: the lock is held until this very process ends.
	ErrDeadlock = syscall.EDEADLK
	// ErrNoToken means that the lock has no fencing token.
	ErrNoToken = syscall.ENODATA
)

// Error is the error of every function and method here. It says which operation failed for which
// session, and why.
type Error struct {
	Op      string // "acquire", "wait", "check", ...
	Session string
	Path    string        // of the lock file (of Sessions: the directory); "" where it could not be told
	Reason  string        // for the reader: what is wrong, and what to do about it
	Errno   syscall.Errno // for the program: ErrHeld, ErrTimeout, ...
}

func (e *Error) Error() string {
	about := ""
	if e.Session != "" {
		about = fmt.Sprintf("session %q: ", e.Session)
	}
	if e.Path != "" {
		return fmt.Sprintf("%s%s: %s: %s", about, e.Op, e.Path, e.Reason)
	}
	return fmt.Sprintf("%s%s: %s", about, e.Op, e.Reason)
}

// Unwrap returns the Errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is makes errors.Is know the names that other packages have for these errors.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded, os.ErrDeadlineExceeded:
		return e.Errno == ErrTimeout
	case context.Canceled:
		return e.Errno == ErrCanceled
	case fs.ErrClosed:
		return e.Errno == ErrReleased
	}
	return false
}

// Timeout reports whether a deadline has passed, for os.IsTimeout. (That the lock is held is no
// timeout, although syscall.EWOULDBLOCK says so of itself.)
func (e *Error) Timeout() bool { return e.Errno == ErrTimeout }

func (t *target) failed(op string, errno syscall.Errno) error {
	return &Error{Op: op, Session: t.session, Path: t.path, Reason: t.reason(op, errno), Errno: errno}
}

func (t *target) reason(op string, errno syscall.Errno) string {
	switch errno {
	case ErrHeld:
		return "locked by another holder"
	case ErrTimeout:
		return "still locked by another holder when the time ran out"
	case ErrCanceled:
		return "the wait was canceled"
	case ErrStale:
		return "no longer the file that was locked; exclusion may have been lost"
	case ErrReleased:
		return "the lock was released already"
	case ErrDeadlock:
		return "the wait could never end: the lock is held until this process ends"
	case syscall.ELOOP:
		return "is a symbolic link, which is never followed"
	case syscall.ENAMETOOLONG:
		return "the session's name is too long: its file name would have more than 255 bytes"
	case ErrNoToken:
		return "there is no token: the lock file could not be read or written"
	case syscall.EINVAL:
		switch {
		case strings.IndexByte(t.session, 0) >= 0:
			return "the session's name contains a NUL byte"
		case strings.IndexByte(t.dir, 0) >= 0:
			return "the directory's name contains a NUL byte"
		case t.path == "" && t.session == "":
			return "the session's name is empty"
		case op != "acquire" && op != "wait":
			return "this is a copy of a Lock, which must not be copied"
		}
	case syscall.EPERM:
		return "not safe to use: " + t.untrusted()
	}
	return errno.Error()
}

// untrusted says why the library does not trust the directory or the file, which its EPERM does not
// tell. What is found by looking again is for the reader, and nothing else.
func (t *target) untrusted() string {
	if t.path == "" {
		return noDefault()
	}

	dir := t.path
	if t.session != "" {
		dir = filepath.Dir(t.path)
	}
	isDefault := t.dir == "" && os.Getenv("SESSION_LOCK_DIR") == ""
	look := os.Stat
	if isDefault {
		look = os.Lstat
	}
	if info, err := look(dir); err == nil {
		mode := info.Mode()
		stat, _ := info.Sys().(*syscall.Stat_t)
		switch {
		case isDefault && mode&fs.ModeSymlink != 0:
			return dir + " is a symbolic link"
		case isDefault && stat != nil && int(stat.Uid) != os.Geteuid():
			return dir + " belongs to another user"
		case isDefault && mode&0o077 != 0:
			return dir + " is accessible to others (chmod 700)"
		case mode&0o002 != 0 && mode&fs.ModeSticky == 0:
			return dir + " is writable by everybody and has no sticky bit (chmod +t)"
		}
	}
	if info, err := os.Lstat(t.path); err == nil && t.session != "" {
		stat, _ := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.Mode().IsRegular():
			return "it is not a regular file"
		case stat != nil && stat.Nlink > 1:
			return "it has more than one hard link"
		}
	}
	return "the directory or the file is not safe to trust"
}

// noDefault says why who names no directory gets none.
func noDefault() string {
	switch named := os.Getenv("SESSION_LOCK_DIR"); {
	case named == "" && !hasNumberOutside():
		return "the user has no ID outside this user namespace to name the default directory after: " +
			"name a directory, or set $SESSION_LOCK_DIR"
	case named == "":
		return "/tmp is private to this service (PrivateTmp=), so that no other process would find " +
			"the lock: name a directory, or set $SESSION_LOCK_DIR"
	case !filepath.IsAbs(named):
		return fmt.Sprintf("$SESSION_LOCK_DIR is %q, which is not an absolute path", named)
	}
	return "$SESSION_LOCK_DIR is set in a program with raised privileges: name a directory"
}

func hasNumberOutside() bool {
	table, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return true
	}
	for _, line := range strings.Split(string(table), "\n") {
		var inside, outside, count int64
		fmt.Sscan(line, &inside, &outside, &count)
		if uid := int64(os.Geteuid()); inside <= uid && uid < inside+count {
			return true
		}
	}
	return false
}
