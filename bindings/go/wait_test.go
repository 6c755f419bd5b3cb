package sessionlock

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the other processes: one that is given a role.
func TestMain(m *testing.M) {
	if role := os.Getenv("SESSIONLOCK_TEST_ROLE"); role != "" {
		roles[role](os.Getenv("SESSIONLOCK_TEST_DIR"))
		os.Exit(0) // without a release: the kernel does that
	}
	// The examples use the directory that one gets without naming one.
	dir, err := os.MkdirTemp("", "sessionlock-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("SESSION_LOCK_DIR", dir)
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

var roles = map[string]func(dir string){
	// They keep the lock until their input ends.
	"acquire": func(dir string) {
		if _, err := Acquire(dir, "s"); err != nil {
			panic(err)
		}
		fmt.Println("held")
		bufio.NewReader(os.Stdin).ReadString('\n')
	},
	"wait": func(dir string) {
		if _, err := Wait(context.Background(), dir, "s"); err != nil {
			panic(err)
		}
		fmt.Println("held")
		bufio.NewReader(os.Stdin).ReadString('\n')
	},
	"acquire-by-default": func(dir string) {
		if filepath.Base(dir) == "tmp" {
			// Not before now: the program itself may be in /tmp.
			if err := exec.Command("mount", "--bind", dir, "/tmp").Run(); err != nil {
				panic(err)
			}
		}
		_, err := Acquire("", "s")
		fmt.Println(err)
		_, err = Sessions("")
		fmt.Println(err)
	},
	"wait-for-ones-own-end": func(dir string) {
		_, err := Wait(context.Background(), dir, "s")
		fmt.Println(errors.Is(err, ErrDeadlock), err)
	},
	"crowd-at-one":  func(dir string) { crowd(dir, func(int) string { return "s" }) },
	"crowd-at-many": func(dir string) { crowd(dir, strconv.Itoa) },
	"no-descriptor": noDescriptor,
	"storm":         storm,
}

// process is another one, with a role. It ends with the test, if not before.
type process struct {
	*exec.Cmd
	t     *testing.T
	stdin io.WriteCloser
	lines *bufio.Reader
	ended bool
}

func start(t *testing.T, dir, role string) *process {
	t.Helper()
	return startBy(t, dir, role)
}

// startBy starts it by another program, given with its arguments.
func startBy(t *testing.T, dir, role string, by ...string) *process {
	t.Helper()
	words := append(by, os.Args[0])
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "SESSIONLOCK_TEST_ROLE="+role, "SESSIONLOCK_TEST_DIR="+dir)
	stdin := must(cmd.StdinPipe())
	p := &process{cmd, t, stdin, bufio.NewReader(must(cmd.StdoutPipe())), false}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			p.kill() // it may wait for what never comes
		} else {
			p.end()
		}
	})
	return p
}

// end ends its input, and waits for it to end well.
func (p *process) end() {
	if !p.ended {
		p.ended = true
		p.stdin.Close()
		if err := p.Wait(); err != nil {
			p.t.Error(err)
		}
	}
}

func (p *process) kill() {
	if !p.ended {
		p.ended = true
		p.Process.Kill()
		p.Wait()
	}
}

func (p *process) hear() string {
	line, _ := p.lines.ReadString('\n')
	return strings.TrimSpace(line)
}

// holdElsewhere is a process that holds the session "s".
func holdElsewhere(t *testing.T, dir string) *process {
	t.Helper()
	p := start(t, dir, "acquire")
	if line := p.hear(); line != "held" {
		t.Fatal(line)
	}
	return p
}

func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// blocked is how many threads of the process wait in the kernel for a lock in the directory.
func blocked(dir string, pid int) int {
	inodes := make(map[string]bool)
	for _, file := range must(os.ReadDir(dir)) {
		if info, err := file.Info(); err == nil {
			inodes[fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino)] = true
		}
	}
	count := 0
	for _, line := range strings.Split(string(must(os.ReadFile("/proc/locks"))), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 6 && fields[1] == "->" && fields[5] == strconv.Itoa(pid) &&
			inodes[fields[6][strings.LastIndexByte(fields[6], ':')+1:]] {
			count++
		}
	}
	return count
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// until waits for what comes in a moment, and that nothing announces.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("not within a minute: ", what)
		}
	}
}

// nothingLeft is to be called before the waits; what it returns, after them.
func nothingLeft(t *testing.T, dir string) func() {
	goroutines, open := runtime.NumGoroutine(), descriptors()
	return func() {
		t.Helper()
		// On a loaded machine a goroutine that has sent its last word may still be ending.
		until(t, "nobody is in the kernel's queue", func() bool { return blocked(dir, os.Getpid()) == 0 })
		until(t, "all descriptors are closed", func() bool { return descriptors() <= open })
		until(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
		if left := countQueues(); left != 0 {
			t.Error(left, "queues are left")
		}
	}
}

func countQueues() int {
	queues.Lock()
	defer queues.Unlock()
	return len(queues.byPath)
}

func inQueue(path string) int {
	queues.Lock()
	defer queues.Unlock()
	if q := queues.byPath[path]; q != nil {
		return len(q.waiting)
	}
	return 0
}

// waiting starts a goroutine that waits for the session "s", and goes on when it is in the queue.
func waiting(t *testing.T, ctx context.Context, dir string) <-chan result {
	t.Helper()
	path := must(Path(dir, "s"))
	before := inQueue(path)
	got := make(chan result, 1)
	go func() {
		lock, err := Wait(ctx, dir, "s")
		got <- result{lock, err}
	}()
	until(t, "it is in the queue", func() bool { return inQueue(path) == before+1 })
	until(t, "the kernel knows", func() bool { return blocked(dir, os.Getpid()) == 1 })
	return got
}

func TestTheHoldersEndEndsTheWait(t *testing.T) {
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, ctx := range []context.Context{cancellable, context.Background()} {
		for _, end := range []func(*process){(*process).end, (*process).kill} {
			dir := t.TempDir()
			other := holdElsewhere(t, dir)
			left := nothingLeft(t, dir)
			got := waiting(t, ctx, dir)
			end(other)
			if r := <-got; r.err != nil {
				t.Error(r.err)
			} else if err := r.lock.Release(); err != nil {
				t.Error(err)
			}
			left()
		}
	}
}

func TestACanceledWaitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	holdElsewhere(t, dir)
	left := nothingLeft(t, dir)
	for i := 0; i < 50; i++ {
		ctx, cancel := context.WithCancel(context.Background())
		var got <-chan result
		if i%10 == 0 {
			got = waiting(t, ctx, dir)
		} else {
			// At any moment.
			some := make(chan result)
			go func() {
				lock, err := Wait(ctx, dir, "s")
				some <- result{lock, err}
			}()
			got = some
		}
		cancel()
		if r := <-got; !errors.Is(r.err, ErrCanceled) || !errors.Is(r.err, context.Canceled) {
			t.Fatal(r.err)
		}
	}
	left()
}

func TestADeadline(t *testing.T) {
	dir := t.TempDir()
	holdElsewhere(t, dir)
	left := nothingLeft(t, dir)
	const timeout = 50 * time.Millisecond
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := Wait(ctx, dir, "s")
	for _, is := range []error{ErrTimeout, context.DeadlineExceeded, os.ErrDeadlineExceeded} {
		if !errors.Is(err, is) {
			t.Errorf("%v is not %v", err, is)
		}
	}
	if !os.IsTimeout(err) || os.IsTimeout(&Error{Errno: ErrHeld}) {
		t.Error("not told from others by os.IsTimeout:", err)
	}
	if waited := time.Since(begin); waited < timeout {
		t.Error("too early:", waited)
	}
	// And one that has passed takes no lock, even a free one.
	if _, err := Wait(ctx, dir, "free"); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	left()
}

func TestWhatAWaitCosts(t *testing.T) {
	dir := t.TempDir()
	other := holdElsewhere(t, dir)
	open := descriptors()
	var all []<-chan result
	for i := 0; i < 3; i++ {
		all = append(all, waiting(t, context.Background(), dir))
	}
	if more := descriptors() - open; more != 1 {
		t.Error(more, "descriptors where nothing can be canceled")
	}
	other.end()
	for _, got := range all {
		(<-got).lock.Release()
	}

	holdElsewhere(t, dir)
	open = descriptors()
	ctx, cancel := context.WithCancel(context.Background())
	all = nil
	for i := 0; i < 3; i++ {
		all = append(all, waiting(t, ctx, dir))
	}
	// One of them is there once for all waits of the process.
	if more := descriptors() - open; more > 4 {
		t.Error(more, "descriptors where it can be canceled")
	}
	cancel()
	for _, got := range all {
		<-got
	}
}

func TestAWaitForOnesOwnEndIsADeadlock(t *testing.T) {
	if _, err := exec.LookPath("session-lock"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	// Its guardian holds the lock until the program has ended.
	p := startBy(t, dir, "wait-for-ones-own-end", "session-lock", "run", "--dir", dir, "s", "--")
	want := fmt.Sprintf(`true session "s": wait: %s/s.lock: the wait could never end: the lock is held `+
		"until this process ends", dir)
	if line := p.hear(); line != want {
		t.Error(line)
	}
}

func TestTheOneWhoCameFirstIsFirst(t *testing.T) {
	dir := t.TempDir()
	other := holdElsewhere(t, dir)
	left := nothingLeft(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	gone, leave := context.WithCancel(context.Background())
	var all []<-chan result
	for i := 0; i < 4; i++ {
		all = append(all, waiting(t, ctx, dir), waiting(t, gone, dir), waiting(t, context.Background(), dir))
	}
	leave()
	for i := 1; i < len(all); i += 3 {
		if r := <-all[i]; !errors.Is(r.err, ErrCanceled) {
			t.Error(r.err)
		}
	}
	other.end()
	for i := range all {
		if i%3 == 1 {
			continue
		}
		r := <-all[i]
		if r.err != nil {
			t.Fatal(i, r.err)
		}
		if err := r.lock.Release(); err != nil {
			t.Error(i, err)
		}
	}
	left()
}

func TestNobodyOvertakesOnesOwnGoroutines(t *testing.T) {
	dir := t.TempDir()
	for i := 0; i < 50; i++ {
		lock := must(Acquire(dir, "s"))
		got := waiting(t, context.Background(), dir)
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
		// Who has released it is quicker than who must wake up first.
		again := make(chan result, 1)
		go func() {
			lock, err := Wait(context.Background(), dir, "s")
			again <- result{lock, err}
		}()
		select {
		case r := <-got:
			if err := r.lock.Release(); err != nil {
				t.Error(err)
			}
			if err := (<-again).lock.Release(); err != nil {
				t.Error(err)
			}
		case <-again:
			t.Fatal("overtaken")
		}
	}
}

// afterUs is another process that waits for the lock, and came after this one.
func afterUs(t *testing.T, dir string) (*process, <-chan string) {
	p := start(t, dir, "wait")
	until(t, "the other one waits", func() bool { return blocked(dir, p.Process.Pid) == 1 })
	held := make(chan string, 1)
	go func() { held <- p.hear() }()
	return p, held
}

func mustBeFirst(t *testing.T, got <-chan result, other <-chan string) {
	t.Helper()
	select {
	case r := <-got:
		if r.err != nil {
			t.Fatal(r.err)
		}
		if err := r.lock.Release(); err != nil {
			t.Error(err)
		}
	case <-other:
		t.Fatal("one that came later got the lock")
	}
}

func TestTheHolderIsToldWithItsWaiters(t *testing.T) {
	dir := t.TempDir()
	holder := holdElsewhere(t, dir)
	afterUs(t, dir)
	if info, err := Holder(dir, "s"); err != nil || info.PID != holder.Process.Pid || info.Waiters != 1 || info.Suspended {
		t.Errorf("%+v %v", info, err)
	}
	defer holder.Process.Signal(syscall.SIGCONT)
	holder.Process.Signal(syscall.SIGSTOP)
	until(t, "it is stopped", func() bool { return must(Holder(dir, "s")).Suspended })
	holder.Process.Signal(syscall.SIGCONT)
	holder.end()
}

func TestWhoeverGivesUpTakesNobodysPlaceAlong(t *testing.T) {
	dir := t.TempDir()
	holder := holdElsewhere(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	first, second := waiting(t, ctx, dir), waiting(t, context.Background(), dir)
	_, held := afterUs(t, dir)
	cancel()
	if r := <-first; !errors.Is(r.err, context.Canceled) {
		t.Error(r.err)
	}
	holder.end()
	mustBeFirst(t, second, held)
	if line := <-held; line != "held" {
		t.Error(line)
	}
}

func TestSignalsAndProfilesDoNotCostThePlace(t *testing.T) {
	var profile bytes.Buffer
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	defer pprof.StopCPUProfile()
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, ctx := range []context.Context{cancellable, context.Background()} {
		dir := t.TempDir()
		holder := holdElsewhere(t, dir)
		got := waiting(t, ctx, dir)
		_, held := afterUs(t, dir)
		for i := 0; i < 20; i++ {
			for _, signal := range []syscall.Signal{syscall.SIGURG, syscall.SIGPROF, syscall.SIGWINCH} {
				for _, thread := range must(os.ReadDir("/proc/self/task")) {
					tid := must(strconv.Atoi(thread.Name()))
					syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(tid), uintptr(signal))
				}
				runtime.GC() // which preempts
			}
		}
		until(t, "it waits", func() bool { return blocked(dir, os.Getpid()) == 1 })
		holder.end()
		mustBeFirst(t, got, held)
	}
}

// crowd is a process with as many waiters as its input says, each with a context of its own and so
// many descriptors as its input says. Everybody must get the lock.
func crowd(dir string, session func(int) string) {
	var count int
	var limit syscall.Rlimit
	fmt.Scan(&count, &limit.Max)
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	// As many as can be come at once.
	runtime.GOMAXPROCS(256)
	var all sync.WaitGroup
	var granted, failed, inside int32
	for i := 0; i < count; i++ {
		all.Add(1)
		go func(session string) {
			defer all.Done()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			lock, err := Wait(ctx, dir, session)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				atomic.AddInt32(&failed, 1)
				return
			}
			if atomic.AddInt32(&inside, 1) != 1 && session == "s" {
				panic("two at once")
			}
			atomic.AddInt32(&granted, 1)
			atomic.AddInt32(&inside, -1)
			if err := lock.Release(); err != nil {
				panic(err)
			}
		}(session(i))
	}
	// All are in a queue, and each queue has its lock file, and two eventfds. (/proc/locks could tell more,
	// but it may miss lines of a long table.)
	for queued := 0; queued+int(atomic.LoadInt32(&failed)) < count || descriptors() < 3*countQueues(); {
		time.Sleep(time.Millisecond)
		queued = 0
		queues.Lock()
		for _, q := range queues.byPath {
			queued += len(q.waiting)
		}
		queues.Unlock()
	}
	fmt.Println("waiting")
	all.Wait()
	fmt.Println("granted", granted)
}

func TestACrowdWithinTheLimitOfDescriptors(t *testing.T) {
	type crowd struct {
		role                     string
		waiters, limit, sessions int
	}
	crowds := []crowd{
		{"crowd-at-one", 400, 1024, 1},
		{"crowd-at-one", 1000, 64, 1},
		{"crowd-at-many", 300, 1024, 300},
	}
	if os.Getenv("SESSION_LOCK_LONG") != "" {
		crowds = append(crowds, crowd{"crowd-at-many", 1000, 4096, 1000})
	}
	for _, c := range crowds {
		dir := t.TempDir()
		var locks []*Lock
		for i := 0; i < c.sessions; i++ {
			session := "s"
			if c.sessions > 1 {
				session = strconv.Itoa(i)
			}
			locks = append(locks, must(Acquire(dir, session)))
		}
		p := start(t, dir, c.role)
		fmt.Fprintln(p.stdin, c.waiters, c.limit)
		if line := p.hear(); line != "waiting" {
			t.Errorf("%+v: %s", c, line)
		}
		for _, lock := range locks {
			if err := lock.Release(); err != nil {
				t.Error(err)
			}
		}
		if line := p.hear(); line != fmt.Sprint("granted ", c.waiters) {
			t.Errorf("%+v: %s", c, line)
		}
		p.end()
	}
}

// noDescriptor is a process that has no descriptor left when its second waiter, the first that can
// be canceled, gets its turn.
func noDescriptor(dir string) {
	path := must(Path(dir, "s"))
	wait := func(ctx context.Context) <-chan result {
		before, got := inQueue(path), make(chan result, 1)
		go func() {
			lock, err := Wait(ctx, dir, "s")
			got <- result{lock, err}
		}()
		for inQueue(path) == before {
			time.Sleep(time.Millisecond)
		}
		return got
	}
	first := wait(context.Background())
	// It has its descriptor.
	for blocked(dir, os.Getpid()) == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second, third := wait(ctx), wait(context.Background())
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	limit.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	r := <-first
	fmt.Println("first", r.err)
	fmt.Println("second", errors.Is((<-second).err, syscall.EMFILE))
	fmt.Println("third", errors.Is((<-third).err, syscall.EMFILE))
}

func TestAFailureInTheQueueIsTold(t *testing.T) {
	dir := t.TempDir()
	holder := holdElsewhere(t, dir)
	p := start(t, dir, "no-descriptor")
	for _, want := range []string{"ready", "first <nil>", "second true", "third true"} {
		if line := p.hear(); line != want {
			t.Fatal(line, "instead of", want)
		}
		if want == "ready" {
			holder.end()
		}
	}
}

// storm is a process whose goroutines wait, give up, and find out whether they are alone.
func storm(dir string) {
	mark := must(os.OpenFile(filepath.Join(dir, "mark"), os.O_RDWR|os.O_CREATE, 0o600))
	var stop int32
	var grants int64
	var all sync.WaitGroup
	for i := int64(0); i < 8; i++ {
		all.Add(1)
		go func(random *rand.Rand) {
			defer all.Done()
			for atomic.LoadInt32(&stop) == 0 {
				ctx, cancel := context.Background(), func() {}
				switch random.Intn(3) {
				case 0:
					ctx, cancel = context.WithTimeout(ctx, time.Duration(random.Intn(2000))*time.Microsecond)
				case 1:
					ctx, cancel = context.WithCancel(ctx)
					time.AfterFunc(time.Duration(random.Intn(2000))*time.Microsecond, cancel)
				}
				lock, err := Wait(ctx, dir, "s")
				cancel()
				if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
					continue
				}
				if err != nil {
					panic(err)
				}
				var wrote, read [8]byte
				random.Read(wrote[:])
				must(mark.WriteAt(wrote[:], 0))
				runtime.Gosched()
				must(mark.ReadAt(read[:], 0))
				if wrote != read {
					panic("two at once")
				}
				atomic.AddInt64(&grants, 1)
				if err := lock.Release(); err != nil {
					panic(err)
				}
			}
		}(rand.New(rand.NewSource(int64(os.Getpid())<<8 + i)))
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	atomic.StoreInt32(&stop, 1)
	all.Wait()
	if countQueues() != 0 {
		panic("a queue is left")
	}
	fmt.Println(grants)
}

func TestAStorm(t *testing.T) {
	dir := t.TempDir()
	until := time.Now().Add(time.Second)
	if long := os.Getenv("SESSION_LOCK_LONG"); long != "" {
		until = until.Add(time.Minute)
	}
	var others []*process
	for i := 0; i < 3; i++ {
		others = append(others, start(t, dir, "storm"))
		others[i].hear()
	}
	for i := 0; time.Now().Before(until); i = (i + 1) % 3 {
		time.Sleep(50 * time.Millisecond)
		others[i].kill()
		others[i] = start(t, dir, "storm")
		others[i].hear()
	}
	grants := 0
	for _, p := range others {
		p.stdin.Close()
		grants += must(strconv.Atoi(p.hear()))
		p.end()
	}
	if grants == 0 {
		t.Error("nobody got the lock")
	}
	lock, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	lock.Release()
}
