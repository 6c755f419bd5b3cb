//go:build linux

// Package sessionlock provides named, crash-safe locks between processes.
//
// A session is any name that processes agree on. Its lock is an exclusive flock(2) on one small file that is never deleted. It belongs to
// the process that acquires it: the kernel releases it when that process ends, however it ends, so
// there are never stale locks to clean up.
//
//	lock, err := sessionlock.Acquire("", "nightly-build")
//	if errors.Is(err, sessionlock.ErrHeld) {
//		holder, _ := sessionlock.Holder("", "nightly-build")
//		log.Fatalf("nightly-build is already locked by %v", holder)
//	}
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer lock.Release()
//	...
//	err = lock.Check() // before a step that must not run twice
//
// [Acquire] tries once, [Wait] waits until its context is done. A [Mutex] is the same lock in the
// shape of a [sync.Mutex].
//
// # Directories and sessions
//
// The lock files of all sessions are in one directory. An empty dir stands for $SESSION_LOCK_DIR, or
// else for /tmp/session-lock-UID, with the effective user ID. A missing directory is created with
// mode 0700. A session's name is any string of at least one byte without a NUL byte. Two sessions
// never share a file.
//
// # Goroutines, threads and processes
//
// All functions and methods may be called from any goroutine at any time. A lock belongs to the
// process, not to a goroutine: a second attempt in the same process is refused, or waits, like one
// from elsewhere. What happens before a lock is released also happens before the same lock is
// acquired again, in the sense of the Go memory model, where both are in one process.
//
// A program started with os/exec does not inherit a lock.
//
// # Building
//
// The package needs cgo, and the C library libsession_lock, which it finds with pkg-config. With the
// build tag sessionlock_static the library is linked statically, and the program also runs where the
// library is not installed.
package sessionlock

/*
#cgo pkg-config: session_lock
#cgo sessionlock_static pkg-config: --static
#cgo sessionlock_static LDFLAGS: -l:libsession_lock.a -Wl,--as-needed

#include <session_lock.h>
*/
import "C"

import (
	"bytes"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

// Version returns the version of the C library, "MAJOR.MINOR.PATCH".
func Version() string {
	return C.GoString(C.session_lock_version())
}

// target is the session that a call is about.
type target struct {
	dir, session string
	path         string // of the lock file; absolute
	// For C. An empty dir is nil.
	cDir, cSession *C.char
}

// newTarget finds the path at once: it must not change later, with the environment or the working
// directory.
func newTarget(op, dir, session string) (*target, error) {
	t := &target{dir: dir, session: session}
	if strings.IndexByte(dir, 0) >= 0 || strings.IndexByte(session, 0) >= 0 {
		// A C string would end there: another session.
		return nil, t.failed(op, syscall.EINVAL)
	}
	if dir != "" {
		t.cDir = cString(dir)
	}
	t.cSession = cString(session)
	for size := 256; ; size *= 2 {
		buffer := make([]byte, size)
		code := C.session_lock_path(t.cDir, t.cSession, (*C.char)(unsafe.Pointer(&buffer[0])), C.size_t(size))
		switch errno := syscall.Errno(-code); errno {
		case syscall.ERANGE:
			continue
		case 0:
			t.path = string(buffer[:bytes.IndexByte(buffer, 0)])
			if absolute, err := filepath.Abs(t.path); err == nil {
				t.path = absolute
			}
			return t, nil
		default:
			return nil, t.failed(op, errno)
		}
	}
}

// cString is in Go's memory, unlike that of C.CString, which takes two more calls into C.
func cString(s string) *C.char {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return (*C.char)(unsafe.Pointer(&b[0]))
}

// Lock is a session's lock, held from [Acquire] or [Wait] until [Lock.Release] or the end of the
// process.
//
// A Lock must not be copied: the methods of a copy fail and change nothing. A Lock that becomes
// unreachable without a Release stays locked until the process ends.
type Lock struct {
	_      noCopy
	self   *Lock
	handle C.session_lock_handle
	target *target
}

// noCopy makes go vet report copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

func newLock(t *target, handle C.session_lock_handle) *Lock {
	lock := &Lock{handle: handle, target: t}
	lock.self = lock
	return lock
}

// Acquire takes the session's lock if it is free. It fails with [ErrHeld] if it is not, whoever holds
// it: another process or this one.
//
// Another error, a directory that is not safe to trust for example, means that the lock was not
// acquired, whether it is free or not. Nothing is left behind by a call that fails.
func Acquire(dir, session string) (*Lock, error) {
	t, err := newTarget("acquire", dir, session)
	if err != nil {
		return nil, err
	}
	return t.acquire("acquire")
}

func (t *target) acquire(op string) (*Lock, error) {
	var handle C.session_lock_handle
	if code := C.session_lock_acquire(t.cDir, t.cSession, &handle); code != 0 {
		return nil, t.failed(op, syscall.Errno(-code))
	}
	return newLock(t, handle), nil
}

// call is for the functions that take a handle.
func (l *Lock) call(op string, function func(C.session_lock_handle) C.int) error {
	if l.self == nil {
		return (&target{}).failed(op, syscall.EBADF)
	}
	if l.self != l {
		return l.target.failed(op, syscall.EINVAL)
	}
	if code := function(l.handle); code != 0 {
		return l.target.failed(op, syscall.Errno(-code))
	}
	return nil
}

// Check checks that the locked file is still the one at its path. It fails with [ErrStale] if the file was
// deleted or replaced, or the filesystem took the lock away: others may hold it by now. Call it
// before a step that must not run twice. It makes two system calls on a local filesystem, and
// changes nothing.
func (l *Lock) Check() error {
	return l.call("check", func(handle C.session_lock_handle) C.int {
		return C.session_lock_check(handle)
	})
}

// Release releases the lock at once, even if a child that is just being started still has a copy of
// its descriptor. It fails with [ErrStale] as Check does, but the lock is released all the same; and
// with [ErrReleased] if it was released before.
func (l *Lock) Release() error {
	return l.call("release", func(handle C.session_lock_handle) C.int {
		return C.session_lock_release(handle)
	})
}

// Close is Release, so that a Lock is an io.Closer.
func (l *Lock) Close() error {
	return l.Release()
}

// Token returns the lock's fencing token: a number larger than that of every earlier holder of the
// session, on any host that shares the directory. Pass it to the resource that the lock protects, and
// let the resource refuse any token smaller than the largest it has seen: then a holder that lost the
// lock without noticing can do no harm.
//
// It fails with [ErrNoToken] if the lock file could not be read or written, on a full disk for
// example; the lock is held all the same.
func (l *Lock) Token() (uint64, error) {
	var token C.uint64_t
	err := l.call("token", func(handle C.session_lock_handle) C.int {
		return C.session_lock_token(handle, &token)
	})
	return uint64(token), err
}

// Session returns the session's name.
func (l *Lock) Session() string { return l.target.session }

// Path returns the absolute path of the lock file.
func (l *Lock) Path() string { return l.target.path }

// Path returns the absolute path of the session's lock file, for use with other tools: a flock(2) on
// that file excludes the holders of the session, and is excluded by them. It creates nothing.
func Path(dir, session string) (string, error) {
	t, err := newTarget("path", dir, session)
	if err != nil {
		return "", err
	}
	return t.path, nil
}
