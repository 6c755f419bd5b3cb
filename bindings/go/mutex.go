//go:build cgo && linux

package sessionlock

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
)

// Mutex is a session's lock in the shape of a [sync.Mutex]: for a struct or a variable that several
// goroutines share. It excludes them from each other, and from all others who lock the session.
//
// It is made by [NewMutex], and must not be copied: the methods of a copy fail and change nothing. Like a
// sync.Mutex it belongs to no goroutine: another one may unlock it.
type Mutex struct {
	self         *Mutex
	dir, session string
	// Holds one value while a goroutine of this process has the lock, or tries to get it.
	turn chan struct{}
	lock atomic.Pointer[Lock]
}

// NewMutex returns a Mutex that is not locked. It touches no file.
func NewMutex(dir, session string) *Mutex {
	m := &Mutex{dir: dir, session: session, turn: make(chan struct{}, 1)}
	m.self = m
	return m
}

// isReal fails for a copy, and for a Mutex that NewMutex has not made.
func (m *Mutex) isReal(op string) error {
	if m.self == m {
		return nil
	}
	reason := "this is a copy of a Mutex, or not made by NewMutex"
	return &Error{Op: op, Session: m.session, Reason: reason, Errno: syscall.EINVAL}
}

// TryLock acquires the lock if it is free, and reports whether it did. It is not an error if the lock is held.
func (m *Mutex) TryLock() (bool, error) {
	if err := m.isReal("acquire"); err != nil {
		return false, err
	}
	select {
	case m.turn <- struct{}{}:
	default:
		return false, nil
	}
	lock, err := Acquire(m.dir, m.session)
	if err := m.keep(lock, err); err != nil {
		if errors.Is(err, ErrHeld) {
			err = nil
		}
		return false, err
	}
	return true, nil
}

// Lock waits for the lock until ctx is done, as [Wait] does.
func (m *Mutex) Lock(ctx context.Context) error {
	if err := m.isReal("wait"); err != nil {
		return err
	}
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		t, err := newTarget("wait", m.dir, m.session)
		if err != nil {
			return err
		}
		return t.done(ctx)
	}
	return m.keep(Wait(ctx, m.dir, m.session))
}

func (m *Mutex) keep(lock *Lock, err error) error {
	if err != nil {
		<-m.turn
		return err
	}
	m.lock.Store(lock)
	return nil
}

// Unlock releases the lock, as [Lock.Release] does. It fails with [ErrReleased] if it is not locked.
func (m *Mutex) Unlock() error {
	if err := m.isReal("release"); err != nil {
		return err
	}
	lock := m.lock.Swap(nil)
	if lock == nil {
		return (&target{dir: m.dir, session: m.session}).failed("release", syscall.EBADF)
	}
	err := lock.Release()
	<-m.turn
	return err
}

// Held returns the lock that this Mutex holds, or nil: use it to check the lock or to get its token.
// Release it with Unlock.
func (m *Mutex) Held() *Lock {
	if m.isReal("held") != nil {
		return nil
	}
	return m.lock.Load()
}
