// gofrs/flock as an actor: see src/actor.rs.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/gofrs/flock"
)

func now() int64 {
	var time syscall.Timespec
	const monotonic = 1
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&time)), 0)
	return time.Nano()
}

// Lock waits for ever, in the kernel. With a deadline one takes TryLockContext, which polls at an
// interval that the caller names: 50 ms here.
func acquire(lock *flock.Flock, deadline bool) {
	var err error
	if deadline {
		_, err = lock.TryLockContext(context.Background(), 50*time.Millisecond)
	} else {
		err = lock.Lock()
	}
	if err != nil {
		panic(err)
	}
}

func main() {
	deadline := os.Args[1] == "deadline"
	lock := flock.New(os.Args[2])
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var answer int64
		switch line := lines.Text(); {
		case line == "acquire":
			acquire(lock, deadline)
			answer = now()
		case line == "release":
			answer = now()
			lock.Unlock()
		case strings.HasPrefix(line, "cycles "):
			var count int64
			fmt.Sscanf(line, "cycles %d", &count)
			before := now()
			for n := int64(0); n < count; n++ {
				acquire(lock, deadline)
				lock.Unlock()
			}
			answer = (now() - before) / count
		}
		fmt.Println(answer)
	}
}
