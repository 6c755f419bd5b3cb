// Ours through the Go package as an actor: see src/actor.rs.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"session-lock.invalid/sessionlock"
)

func now() int64 {
	var time syscall.Timespec
	const monotonic = 1
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&time)), 0)
	return time.Nano()
}

func acquire(dir, session string) *sessionlock.Lock {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	lock, err := sessionlock.Wait(ctx, dir, session)
	if err != nil {
		panic(err)
	}
	return lock
}

func release(lock *sessionlock.Lock) {
	if err := lock.Release(); err != nil {
		panic(err)
	}
}

func main() {
	dir := filepath.Dir(os.Args[1])
	session := strings.TrimSuffix(filepath.Base(os.Args[1]), ".lock")
	var lock *sessionlock.Lock
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var answer int64
		switch line := lines.Text(); {
		case line == "acquire":
			lock = acquire(dir, session)
			answer = now()
		case line == "release":
			answer = now()
			release(lock)
		case strings.HasPrefix(line, "cycles "):
			var count int64
			fmt.Sscanf(line, "cycles %d", &count)
			before := now()
			for n := int64(0); n < count; n++ {
				lock, err := sessionlock.Acquire(dir, session)
				if err != nil {
					panic(err)
				}
				release(lock)
			}
			answer = (now() - before) / count
		}
		fmt.Println(answer)
	}
}
