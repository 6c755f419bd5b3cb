// Waits from Go: goroutines on many threads, none of which the program has started itself, while the
// runtime collects garbage and preempts. The session "s" is held by somebody else until the line
// "waiting" has been answered; $SESSION_LOCK_DIR says where.
package main

// #include "session_lock.h"
import "C"

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func wait(deadline time.Time) (C.session_lock_handle, syscall.Errno) {
	session := []byte("s\x00")
	for {
		left := time.Until(deadline).Milliseconds() + 1
		if left < 0 {
			left = 0
		}
		var lock C.session_lock_handle
		result := C.session_lock_wait(nil, (*C.char)(C.CBytes(session)), C.int64_t(left), -1, &lock)
		if errno := syscall.Errno(-result); errno != syscall.EINTR {
			return lock, errno
		}
	}
}

func main() {
	var waiting sync.WaitGroup
	var timedOut, got, inside int32
	stop := make(chan bool)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	start := func(count int, timeout time.Duration) {
		for n := 0; n < count; n++ {
			waiting.Add(1)
			go func() {
				defer waiting.Done()
				lock, errno := wait(time.Now().Add(timeout))
				switch errno {
				case syscall.ETIMEDOUT:
					atomic.AddInt32(&timedOut, 1)
				case 0:
					if atomic.AddInt32(&inside, 1) != 1 || C.session_lock_check(lock) != 0 {
						panic("two at once")
					}
					atomic.AddInt32(&inside, -1)
					atomic.AddInt32(&got, 1)
					if C.session_lock_release(lock) != 0 {
						panic("release")
					}
				default:
					panic(errno)
				}
			}()
		}
	}
	start(50, 100*time.Millisecond)
	waiting.Wait()
	start(50, 2*time.Minute)
	fmt.Println("waiting")
	bufio.NewReader(os.Stdin).ReadString('\n')
	waiting.Wait()
	close(stop)
	if timedOut != 50 || got != 50 {
		panic(fmt.Sprint(timedOut, " timed out, ", got, " got it"))
	}
}
