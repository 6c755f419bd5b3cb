package sessionlock

import (
	"context"
	"errors"
	"os"
	"reflect"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

func TestAMutexIsLockedOnce(t *testing.T) {
	dir := t.TempDir()
	mutex, other := NewMutex(dir, "s"), NewMutex(dir, "s")
	if err := mutex.Unlock(); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
	if locked, err := mutex.TryLock(); !locked || err != nil {
		t.Fatal(locked, err)
	}
	for _, m := range []*Mutex{mutex, other} {
		if locked, err := m.TryLock(); locked || err != nil {
			t.Error(locked, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := m.Lock(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if other.Held() != nil || mutex.Held().Check() != nil {
		t.Error(other.Held(), mutex.Held())
	}
	if err := mutex.Unlock(); err != nil {
		t.Error(err)
	}
	if mutex.Held() != nil {
		t.Error(mutex.Held())
	}
	if err := other.Lock(context.Background()); err != nil {
		t.Error(err)
	}
	if err := other.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestACopyOfAMutexChangesNothing(t *testing.T) {
	mutex := NewMutex(t.TempDir(), "s")
	if err := mutex.Lock(context.Background()); err != nil {
		t.Fatal(err)
	}
	// go vet would find `copied := *mutex`.
	copied := reflect.New(reflect.TypeOf(mutex).Elem())
	copied.Elem().Set(reflect.ValueOf(mutex).Elem())
	for _, m := range []*Mutex{copied.Interface().(*Mutex), new(Mutex)} {
		_, tried := m.TryLock()
		for _, err := range []error{tried, m.Lock(context.Background()), m.Unlock()} {
			if !errors.Is(err, syscall.EINVAL) {
				t.Error(err)
			}
		}
		if m.Held() != nil {
			t.Error("held")
		}
	}
	if err := mutex.Held().Check(); err != nil {
		t.Error(err)
	}
}

func TestAMutexAfterAFailure(t *testing.T) {
	mutex := NewMutex(t.TempDir(), "")
	for i := 0; i < 2; i++ {
		if locked, err := mutex.TryLock(); locked || err == nil {
			t.Error(locked, err)
		}
		if err := mutex.Lock(context.Background()); err == nil {
			t.Error("locked")
		}
	}
}

// The next one of this process must not take the lock of one whose file was deleted for its own.
func TestAMutexIsReleasedByTheOneWhoHasIt(t *testing.T) {
	mutex := NewMutex(t.TempDir(), "s")
	if err := mutex.Lock(context.Background()); err != nil {
		t.Fatal(err)
	}
	os.Remove(mutex.Held().Path())
	if locked, err := mutex.TryLock(); locked || err != nil {
		t.Error(locked, err)
	}
	if err := mutex.Unlock(); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
	if locked, err := mutex.TryLock(); !locked || err != nil {
		t.Error(locked, err)
	}
	if err := mutex.Unlock(); err != nil {
		t.Error(err)
	}
}

// So says the race detector, too, which sees nothing of flock(2).
func TestAMutexAndALockGuardMemory(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	mutex := NewMutex(dir, "s")
	var lock *Lock
	for name, of := range map[string]struct{ lock, unlock func() error }{
		"mutex": {func() error { return mutex.Lock(ctx) }, mutex.Unlock},
		"lock": {
			func() error {
				// Not by Wait: its queue is guarded by a mutex, which the detector sees.
				for {
					got, err := Acquire(dir, "s")
					if !errors.Is(err, ErrHeld) {
						lock = got
						return err
					}
					runtime.Gosched()
				}
			},
			func() error { return lock.Release() },
		},
	} {
		count := 0
		var all sync.WaitGroup
		for i := 0; i < 8; i++ {
			all.Add(1)
			go func() {
				defer all.Done()
				for i := 0; i < 50; i++ {
					if err := of.lock(); err != nil {
						t.Error(name, err)
						return
					}
					count++
					if err := of.unlock(); err != nil {
						t.Error(name, err)
					}
				}
			}()
		}
		all.Wait()
		if count != 8*50 {
			t.Error(name, count)
		}
	}
}
