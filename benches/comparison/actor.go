// A process that locks FILE with gofrs/flock, as it is told on standard input: see compare.py.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// Without a deadline it waits in the kernel, with one it polls at an interval that the caller names.
func take(lock *flock.Flock, seconds float64) bool {
	if seconds == 0 {
		taken, _ := lock.TryLock()
		return taken
	}
	if os.Args[1] == "Lock" {
		return lock.Lock() == nil
	}
	context, cancel := context.WithTimeout(context.Background(), time.Duration(seconds*1e9))
	defer cancel()
	taken, _ := lock.TryLockContext(context, 50*time.Millisecond)
	return taken
}

func main() {
	lock := flock.New(os.Args[2])
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var command string
		var seconds float64
		fmt.Sscan(lines.Text(), &command, &seconds)
		answer := "yes"
		switch command {
		case "take":
			if !take(lock, seconds) {
				answer = "no"
			}
		case "release":
			lock.Unlock()
		case "told":
			answer = "no"
		}
		fmt.Println(answer)
	}
}
