//go:build linux

package sessionlock

/*
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <session_lock.h>

// A signal handler would end the wait, and with it the place in the kernel's queue. Go's runtime uses
// signals for preemption and for profiles. None of them is meant for a thread that waits: the
// others have them all.
static int wait_undisturbed(const char *dir, const char *session, int cancel_fd,
                            session_lock_handle *lock) {
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int result = session_lock_wait(dir, session, -1, cancel_fd, lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return result;
}

static int cancel_fd(void) {
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}
*/
import "C"

import (
	"context"
	"errors"
	"sync"
	"syscall"
)

// Wait waits for the session's lock until ctx is done. Then it fails with [ErrTimeout] or
// [ErrCanceled], which errors.Is knows by the context's own names, too. A ctx that is done already
// gets no lock, even if it is free.
//
// The wait is in the kernel's own queue, and takes no processor time. All goroutines that wait for
// one session share one place there, and take turns in the order in which they came: a
// thousand of them cost no more than one. That is a thread and a descriptor, and another thread and
// two more descriptors if the wait can be canceled; one more descriptor serves all waits of the process.
func Wait(ctx context.Context, dir, session string) (*Lock, error) {
	const op = "wait"
	t, err := newTarget(op, dir, session)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, t.done(ctx)
	}
	q, w, first := enqueue(t, ctx.Done() != nil)
	if first {
		// Only this one tries: a thousand that tried at once would have a thousand descriptors.
		lock, err := t.acquire(op)
		waits := errors.Is(err, ErrHeld)
		if waits && q.begin() || !waits && q.deliver(result{lock, err}) {
			go q.serve()
		}
	}
	var r result
	select {
	case r = <-w.result:
	case <-ctx.Done():
		if q.leave(w) {
			return nil, t.done(ctx)
		}
		r = <-w.result
	}
	if errors.Is(r.err, ErrCanceled) {
		return nil, t.done(ctx)
	}
	return r.lock, r.err
}

func (t *target) done(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return t.failed("wait", ErrTimeout)
	}
	return t.failed("wait", ErrCanceled)
}

// queue is the goroutines that wait for one session, in the order in which they came.
//
// As long as there are any, one call waits in the kernel for all of them. Its result is that of the
// first one, and then it begins again for the next. So whoever gives up takes nobody's place along.
type queue struct {
	target  *target
	waiting []*waiter
	// An eventfd, which ends the call; -1 where there is none, for none is needed yet.
	cancel C.int
}

type waiter struct {
	cancellable bool
	result      chan result // has room for the one that it gets
}

type result struct {
	lock *Lock
	err  error
}

// queues are those that have waiters, by the path of the lock file. The mutex guards the queues, too.
var queues = struct {
	sync.Mutex
	byPath map[string]*queue
}{byPath: make(map[string]*queue)}

// enqueue says whether the waiter is the first one, which has to see to the queue.
func enqueue(t *target, cancellable bool) (*queue, *waiter, bool) {
	w := &waiter{cancellable, make(chan result, 1)}
	queues.Lock()
	defer queues.Unlock()
	if q := queues.byPath[t.path]; q != nil {
		q.waiting = append(q.waiting, w)
		return q, w, false
	}
	q := &queue{target: t, waiting: []*waiter{w}, cancel: -1}
	queues.byPath[t.path] = q
	return q, w, true
}

// prepare makes the eventfd if the first one in the queue may need it.
func (q *queue) prepare() error {
	if q.cancel != -1 || !q.waiting[0].cancellable {
		return nil
	}
	fd, err := C.cancel_fd()
	if errno, failed := err.(syscall.Errno); fd == -1 && failed {
		return q.target.failed("wait", errno)
	}
	q.cancel = fd
	return nil
}

// leave takes the waiter out of the queue. It says false if a result is there for it, or will be at
// once: then that is what counts, for the lock may have been granted meanwhile.
func (q *queue) leave(w *waiter) bool {
	queues.Lock()
	defer queues.Unlock()
	for at := range q.waiting {
		if q.waiting[at] != w {
			continue
		}
		if len(q.waiting) == 1 {
			// The call was begun for this one, or for another one that could be cancelled: one that
			// could not would still be here. So there is an eventfd.
			C.eventfd_write(q.cancel, 1)
			return false
		}
		q.waiting = append(q.waiting[:at], q.waiting[at+1:]...)
		return true
	}
	return false
}

func (q *queue) serve() {
	for q.deliver(q.wait()) {
	}
}

func (q *queue) wait() result {
	t := q.target
	for {
		var handle C.session_lock_handle
		code := C.wait_undisturbed(t.cDir, t.cSession, q.cancel, &handle)
		switch errno := syscall.Errno(-code); errno {
		case 0:
			return result{lock: newLock(t, handle)}
		case syscall.EINTR:
			// One of the C library's own signals, which cannot be blocked: setuid(2) in all threads.
		default:
			return result{err: t.failed("wait", errno)}
		}
	}
}

// deliver gives the result to the first one in the queue, and says whether to go on for others.
func (q *queue) deliver(r result) bool {
	queues.Lock()
	defer queues.Unlock()
	q.pop(r)
	if q.cancel != -1 {
		// It may have been meant for the first one. Zero again.
		var value C.eventfd_t
		C.eventfd_read(q.cancel, &value)
	}
	return q.goesOn()
}

// begin says whether there is a call to be begun.
func (q *queue) begin() bool {
	queues.Lock()
	defer queues.Unlock()
	return q.goesOn()
}

// goesOn says whether somebody is left, for whom everything is there; if not, the queue ends.
func (q *queue) goesOn() bool {
	for len(q.waiting) > 0 {
		err := q.prepare()
		if err == nil {
			return true
		}
		q.pop(result{err: err})
	}
	if q.cancel != -1 {
		syscall.Close(int(q.cancel))
	}
	delete(queues.byPath, q.target.path)
	return false
}

func (q *queue) pop(r result) {
	q.waiting[0].result <- r
	q.waiting = q.waiting[1:]
}
