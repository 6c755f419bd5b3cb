// Package sessionlock makes sure that at most one process at a time works on a session.
//
// A session's lock is an exclusive flock(2) on one small file that is never deleted. It belongs to
// the process that takes it: the kernel frees it when that process ends, however it ends, so there
// are no stale locks and nothing to clean up.
//
//	lock, err := sessionlock.Acquire("", "nightly-build")
//	if errors.Is(err, sessionlock.ErrHeld) {
//		holder, _ := sessionlock.Holder("", "nightly-build")
//		log.Fatalf("somebody else is at it: %v", holder)
//	}
//	...
//	defer lock.Release()
//	...
//	err = lock.Check() // before the step that must not run twice
//
// All functions may be called from any goroutine; a lock belongs to none in particular.
package sessionlock

// #cgo pkg-config: session_lock
// #include <session_lock.h>
// #include <stdlib.h>
import "C"

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// What to tell apart with errors.Is.
const (
	// ErrHeld: somebody else holds the lock.
	ErrHeld = syscall.EWOULDBLOCK
	// ErrStale: the lock file was deleted or replaced while it was locked, so exclusion may have
	// been lost.
	ErrStale = syscall.ESTALE
	// ErrTimeout: the context's deadline passed; the same as context.DeadlineExceeded.
	ErrTimeout = syscall.ETIMEDOUT
	// ErrCanceled: the context was cancelled; the same as context.Canceled.
	ErrCanceled = syscall.ECANCELED
	// ErrReleased: the lock was released already.
	ErrReleased = syscall.EBADF
)

// Error says which call failed for which session. Unwrap gives its number, a syscall.Errno.
type Error struct {
	Call    string
	Session string
	Errno   syscall.Errno
}

func (e *Error) Error() string {
	text := e.Errno.Error()
	switch e.Errno {
	case ErrHeld:
		text = "locked by another holder"
	case ErrTimeout:
		text = "still locked by another holder when the time ran out"
	case ErrStale:
		text = "the lock file was deleted or replaced while it was locked"
	}
	return fmt.Sprintf("session %q: %s: %s", e.Session, e.Call, text)
}

func (e *Error) Unwrap() error { return e.Errno }

// Is makes the context's own errors known by their names.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Errno == ErrTimeout ||
		target == context.Canceled && e.Errno == ErrCanceled
}

func newError(call, session string, code C.int) error {
	if code == 0 {
		return nil
	}
	return &Error{call, session, syscall.Errno(-code)}
}

// names are what every call takes, for C.
type names struct{ dir, session *C.char }

// newNames converts them; free them afterwards. An empty dir stands for $SESSION_LOCK_DIR or the
// user's default.
func newNames(call, dir, session string) (names, error) {
	if strings.IndexByte(dir, 0) >= 0 || strings.IndexByte(session, 0) >= 0 {
		// A C string would end there: another session.
		return names{}, &Error{call, session, syscall.EINVAL}
	}
	n := names{session: C.CString(session)}
	if dir != "" {
		n.dir = C.CString(dir)
	}
	return n, nil
}

func (n names) free() {
	C.free(unsafe.Pointer(n.dir))
	C.free(unsafe.Pointer(n.session))
}

// Lock is a session's lock, held until Release or the end of the process.
type Lock struct {
	handle  C.session_lock_handle
	session string
}

// Acquire takes the lock if it is free; ErrHeld if it is not.
func Acquire(dir, session string) (*Lock, error) {
	n, err := newNames("acquire", dir, session)
	if err != nil {
		return nil, err
	}
	defer n.free()
	lock := &Lock{session: session}
	if code := C.session_lock_acquire(n.dir, n.session, &lock.handle); code != 0 {
		return nil, newError("acquire", session, code)
	}
	return lock, nil
}

// Wait waits for the lock in the kernel's queue, until ctx is done: ErrTimeout or ErrCanceled. It
// leaves no goroutine behind.
func Wait(ctx context.Context, dir, session string) (*Lock, error) {
	const call = "wait"
	if ctx.Err() != nil {
		return nil, done(ctx, session)
	}
	n, err := newNames(call, dir, session)
	if err != nil {
		return nil, err
	}
	defer n.free()

	cancel := C.int(-1)
	if ctx.Done() != nil {
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("session %q: %s: %w", session, call, err)
		}
		returned, gone := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(gone)
			select {
			case <-ctx.Done():
			case <-returned:
			}
			writer.Close() // which hangs up the reader
		}()
		defer func() {
			close(returned)
			<-gone
			reader.Close()
		}()
		cancel = C.int(reader.Fd())
	}

	lock := &Lock{session: session}
	for {
		code := C.session_lock_wait(n.dir, n.session, -1, cancel, &lock.handle)
		switch syscall.Errno(-code) {
		case 0:
			return lock, nil
		case syscall.EINTR: // one of the runtime's own signals
		case syscall.ECANCELED:
			return nil, done(ctx, session)
		default:
			return nil, newError(call, session, code)
		}
	}
}

func done(ctx context.Context, session string) error {
	if ctx.Err() == context.DeadlineExceeded {
		return &Error{"wait", session, ErrTimeout}
	}
	return &Error{"wait", session, ErrCanceled}
}

// Check answers whether the lock is still the lock: ErrStale if the file was deleted or replaced,
// for then others do not see it. To be called before a step that must not run twice.
func (l *Lock) Check() error {
	return newError("check", l.session, C.session_lock_check(l.handle))
}

// Release frees the lock at once; ErrStale as in Check, but it is released all the same.
func (l *Lock) Release() error {
	return newError("release", l.session, C.session_lock_release(l.handle))
}

// State is whether a session is locked.
type State int

// Free is only said when it is known.
const (
	Free    State = C.SESSION_LOCK_FREE
	Held    State = C.SESSION_LOCK_HELD
	Unknown State = C.SESSION_LOCK_UNKNOWN
)

// Info says who holds a session's lock. It can be out of date at once: never gate on it.
type Info struct {
	State      State
	PID        int       // 0: not visible from here
	Orphaned   bool      // that process is dead, and one that it started still holds the lock
	Confirmed  bool      // by the kernel's lock table; otherwise only the label in the file says so
	AcquiredAt time.Time // zero: unknown
	Command    string    // at most 63 bytes of another process: anything
	Host       string
}

func (h Info) String() string {
	switch {
	case h.State == Free:
		return "free"
	case h.State == Unknown:
		return "unknown"
	case h.PID == 0:
		return "a process that is not visible from here"
	}
	return fmt.Sprintf("PID %d (%+q)", h.PID, h.Command)
}

// Holder says who holds the session's lock. Asking never takes it, and creates nothing.
func Holder(dir, session string) (Info, error) {
	n, err := newNames("holder", dir, session)
	if err != nil {
		return Info{State: Unknown}, err
	}
	defer n.free()
	var info C.struct_session_lock_holder_info
	code := C.session_lock_holder(n.dir, n.session, &info, C.size_t(unsafe.Sizeof(info)))
	holder := Info{
		State:     State(info.state),
		PID:       int(info.pid),
		Orphaned:  info.orphaned != 0,
		Confirmed: info.confirmed != 0,
		Command:   C.GoString(&info.command[0]),
		Host:      C.GoString(&info.host[0]),
	}
	if info.acquired_at_ms != 0 {
		holder.AcquiredAt = time.UnixMilli(int64(info.acquired_at_ms))
	}
	return holder, newError("holder", session, code)
}
