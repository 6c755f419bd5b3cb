package sessionlock

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the other process: one that holds the lock until its input ends.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SESSIONLOCK_TEST_HOLD"); dir != "" {
		if _, err := Acquire(dir, "s"); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("held\n")
		bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(0) // without a release: the kernel does that
	}
	os.Exit(m.Run())
}

// holdElsewhere starts that process; calling end ends it.
func holdElsewhere(t *testing.T, dir string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SESSIONLOCK_TEST_HOLD="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" {
		t.Fatal(line, err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			stdin.Close()
			cmd.Wait()
		}
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func blocked(t *testing.T) bool {
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(table), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[1] == "->" && fields[5] == pid {
			return true
		}
	}
	return false
}

// until waits until it is so, which is a matter of moments.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("not within a minute: ", what)
		}
	}
}

var pid = func() string {
	self, _ := os.Readlink("/proc/self")
	return self
}()

func TestLifeOfALock(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Check(); err != nil {
		t.Error(err)
	}
	if info, err := Holder(dir, "s"); err != nil || info.State != Held || info.PID != os.Getpid() {
		t.Error(info, err)
	}
	if _, err := Acquire(dir, "s"); !errors.Is(err, ErrHeld) {
		t.Error(err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
	if err := lock.Release(); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
	if info, err := Holder(dir, "s"); err != nil || info.State != Free {
		t.Error(info, err)
	}
}

func TestADeletedFileIsStale(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "s.lock")); err != nil {
		t.Fatal(err)
	}
	if err := lock.Check(); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
	if err := lock.Release(); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
}

func TestANULByteIsNoEndOfTheName(t *testing.T) {
	if _, err := Acquire(t.TempDir(), "s\x00t"); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
}

func TestTheHoldersEndEndsTheWait(t *testing.T) {
	dir := t.TempDir()
	holder, end := holdElsewhere(t, dir)
	if info, err := Holder(dir, "s"); err != nil || info.PID != holder {
		t.Error(info, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, ctx := range []context.Context{ctx, context.Background()} {
		got := make(chan error)
		go func() {
			lock, err := Wait(ctx, dir, "s")
			if err == nil {
				err = lock.Release()
			}
			got <- err
		}()
		until(t, "it waits", func() bool { return blocked(t) })
		end()
		if err := <-got; err != nil {
			t.Error(err)
		}
		_, end = holdElsewhere(t, dir)
	}
}

func TestACancelledWaitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	holdElsewhere(t, dir)
	goroutines, open := runtime.NumGoroutine(), descriptors(t)
	for i := 0; i < 50; i++ {
		ctx, cancel := context.WithCancel(context.Background())
		got := make(chan error)
		go func() {
			_, err := Wait(ctx, dir, "s")
			got <- err
		}()
		if i == 0 {
			until(t, "it waits", func() bool { return blocked(t) })
		}
		cancel()
		if err := <-got; !errors.Is(err, ErrCanceled) || !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	// On a loaded machine the library's own thread, or a goroutine that has sent its last word, may
	// still be ending.
	until(t, "nobody is in the queue", func() bool { return !blocked(t) })
	until(t, "all descriptors are closed", func() bool { return descriptors(t) == open })
	until(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
}

func TestADeadline(t *testing.T) {
	dir := t.TempDir()
	holdElsewhere(t, dir)
	const timeout = 50 * time.Millisecond
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := Wait(ctx, dir, "s")
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if waited := time.Since(begin); waited < timeout {
		t.Error("too early:", waited)
	}
	// And one that has passed takes no lock, even a free one.
	if _, err := Wait(ctx, dir, "free"); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
}
