package sessionlock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"session-lock.invalid/sessionlock"
)

func ExampleAcquire() {
	lock, err := sessionlock.Acquire("", "nightly-build")
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release()

	_, err = sessionlock.Acquire("", "nightly-build")
	if errors.Is(err, sessionlock.ErrHeld) {
		holder, _ := sessionlock.Holder("", "nightly-build")
		fmt.Println("held by this very process:", holder.PID == os.Getpid())
	}
	// Output: held by this very process: true
}

func ExampleWait() {
	lock, err := sessionlock.Acquire("", "import")
	if err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { lock.Release() })

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lock, err = sessionlock.Wait(ctx, "", "import")
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release()
	fmt.Println("it is our turn")
	// Output: it is our turn
}

func ExampleWait_deadline() {
	lock, err := sessionlock.Acquire("", "report")
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = sessionlock.Wait(ctx, "", "report")
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleLock_Check() {
	lock, err := sessionlock.Acquire("", "publish")
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release()

	// Somebody cleans up what is not theirs.
	os.Remove(lock.Path())

	if err := lock.Check(); err != nil {
		fmt.Println("not published:", errors.Is(err, sessionlock.ErrStale))
		return
	}
	fmt.Println("published")
	// Output: not published: true
}

func ExampleMutex() {
	mutex := sessionlock.NewMutex("", "cache")
	if locked, err := mutex.TryLock(); err != nil || !locked {
		log.Fatal(locked, err)
	}
	locked, err := mutex.TryLock()
	fmt.Println(locked, err)
	if err := mutex.Unlock(); err != nil {
		log.Fatal(err)
	}

	if err := mutex.Lock(context.Background()); err != nil {
		log.Fatal(err)
	}
	defer mutex.Unlock()
	fmt.Println("locked")
	// Output:
	// false <nil>
	// locked
}

func ExampleHolder() {
	holder, err := sessionlock.Holder("", "nobody-ever-locked-this")
	fmt.Println(holder.State, err)
	// Output: free <nil>
}

func ExamplePath() {
	path, err := sessionlock.Path("/var/lib/builds", "team a/nightly")
	fmt.Println(path, err)
	// Output: /var/lib/builds/team%20a%2Fnightly.lock <nil>
}

func ExampleSessions() {
	lock, err := sessionlock.Acquire("", "weekly-report")
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release()

	sessions, err := sessionlock.Sessions("")
	if err != nil {
		log.Fatal(err)
	}
	for _, session := range sessions {
		if session.Holder.State == sessionlock.Held {
			fmt.Println(session.Name)
		}
	}
	// Output: weekly-report
}

func ExampleLock_Token() {
	var tokens []uint64
	for i := 0; i < 2; i++ {
		lock, err := sessionlock.Acquire("", "ledger")
		if err != nil {
			log.Fatal(err)
		}
		token, err := lock.Token()
		if err != nil {
			log.Fatal(err)
		}
		tokens = append(tokens, token)
		lock.Release()
	}
	fmt.Println(tokens[0] < tokens[1])
	// Output: true
}
