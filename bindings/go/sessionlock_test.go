package sessionlock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestLifeOfALock(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Check(); err != nil {
		t.Error(err)
	}
	if lock.Session() != "s" || lock.Path() != filepath.Join(dir, "s.lock") {
		t.Error(lock.Session(), lock.Path())
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
	if info, err := Holder(dir, "s"); err != nil || info.State != Free {
		t.Error(info, err)
	}
}

func TestALockIsReleasedOnce(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	var closer io.Closer = lock
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
	again, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); !errors.Is(err, ErrReleased) || !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	if err := lock.Check(); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
	if err := again.Check(); err != nil {
		t.Error(err)
	}
	if err := new(Lock).Release(); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
}

func TestACopyOfALockChangesNothing(t *testing.T) {
	lock, err := Acquire(t.TempDir(), "s")
	if err != nil {
		t.Fatal(err)
	}
	// go vet would find `copied := *lock`.
	copied := reflect.New(reflect.TypeOf(lock).Elem())
	copied.Elem().Set(reflect.ValueOf(lock).Elem())
	if err := copied.Interface().(*Lock).Release(); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	if err := lock.Check(); err != nil {
		t.Error(err)
	}
}

func TestADeletedFileIsStale(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lock.Path()); err != nil {
		t.Fatal(err)
	}
	if err := lock.Check(); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
	if err := lock.Release(); !errors.Is(err, ErrStale) {
		t.Error(err)
	}
}

func TestThePathIsThatOfTheLock(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SESSION_LOCK_DIR", dir)
	lock, err := Acquire("", "a b")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	path, err := Path("", "a b")
	if err != nil || path != lock.Path() || path != filepath.Join(dir, "a%20b.lock") {
		t.Error(path, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	// It goes on naming the file that is locked.
	t.Setenv("SESSION_LOCK_DIR", t.TempDir())
	if lock.Path() != path {
		t.Error(lock.Path())
	}
	// A long one.
	long := "/" + strings.Repeat("a/", 1000)
	if path, err := Path(long, "s"); err != nil || path != long+"s.lock" {
		t.Error(path, err)
	}
}

func TestARelativeDirectoryIsTheOneOfNow(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chdir(before) })
	dir := t.TempDir()
	if err := os.Chdir(dir); err != nil {
		t.Fatal(err)
	}
	lock, err := Acquire("locks", "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir("/"); err != nil {
		t.Fatal(err)
	}
	if lock.Path() != filepath.Join(dir, "locks", "s.lock") {
		t.Error(lock.Path())
	}
	if err := lock.Check(); err != nil {
		t.Error(err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
}

func TestErrorsSayWhichFileAndWhy(t *testing.T) {
	dir := t.TempDir()
	in := func(name string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ours := in("ours", 0o700)
	held, err := Acquire(ours, "held")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	os.Symlink("elsewhere", filepath.Join(ours, "link.lock"))
	os.Mkdir(filepath.Join(ours, "dir.lock"), 0o700)
	os.WriteFile(filepath.Join(ours, "one.lock"), nil, 0o600)
	os.Link(filepath.Join(ours, "one.lock"), filepath.Join(ours, "two.lock"))
	os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)

	for _, c := range []struct {
		dir, session string
		is           error
		says         string
	}{
		{ours, "held", ErrHeld, "/ours/held.lock: locked by another holder"},
		{in("open", 0o777), "s", fs.ErrPermission, "/open/s.lock: not safe to use: "},
		{filepath.Join(dir, "open"), "s", syscall.EPERM, "chmod +t"},
		{ours, "link", syscall.ELOOP, "/ours/link.lock: is a symbolic link"},
		{ours, "dir", fs.ErrPermission, "not a regular file"},
		{ours, "one", fs.ErrPermission, "more than one hard link"},
		{filepath.Join(dir, "file"), "s", syscall.ENOTDIR, "/file/s.lock: not a directory"},
		{ours, "", syscall.EINVAL, "name is empty"},
		{ours, "a\x00b", syscall.EINVAL, `session "a\x00b": `},
		{ours, "a\x00b", syscall.EINVAL, "session's name contains a NUL byte"},
		{"a\x00b", "s", syscall.EINVAL, "directory's name contains a NUL byte"},
		{ours, strings.Repeat("a", 251), syscall.ENAMETOOLONG, "too long"},
	} {
		_, acquired := Acquire(c.dir, c.session)
		errs := map[string]error{"acquire": acquired}
		if c.is != ErrHeld {
			_, errs["wait"] = Wait(context.Background(), c.dir, c.session)
		}
		for op, err := range errs {
			var failure *Error
			if !errors.As(err, &failure) {
				t.Fatalf("%v: %v", c, err)
			}
			if !errors.Is(err, c.is) || failure.Op != op || failure.Session != c.session {
				t.Errorf("%v: %#v", c, failure)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q is not in %q", c.says, err)
			}
		}
	}
}

func TestARefusedDefaultDirectoryIsToldWithItsReason(t *testing.T) {
	refused := func(says string) {
		t.Helper()
		_, acquired := Acquire("", "s")
		_, waited := Wait(context.Background(), "", "s")
		_, asked := Holder("", "s")
		_, named := Path("", "s")
		_, listed := Sessions("")
		for _, err := range []error{acquired, waited, asked, named, listed} {
			if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, syscall.EPERM) ||
				!strings.Contains(err.Error(), says) {
				t.Errorf("%q is not in %q", says, err)
			}
		}
	}
	t.Setenv("SESSION_LOCK_DIR", "locks")
	refused(`$SESSION_LOCK_DIR is "locks", which is not an absolute path`)

	// Those that take another process, in a place of its own.
	t.Setenv("SESSION_LOCK_DIR", "")
	dir := t.TempDir()
	private := filepath.Join(dir, "systemd-private-0-a.service-b", "tmp")
	if err := os.MkdirAll(private, 0o700); err != nil {
		t.Fatal(err)
	}
	for says, c := range map[string]struct{ dir, namespace string }{
		"no ID outside this user namespace": {dir, "--user"},
		"(PrivateTmp=)":                     {private, "--mount"},
	} {
		if exec.Command("unshare", c.namespace, "true").Run() != nil {
			t.Logf("not possible here: unshare %s", c.namespace)
			continue
		}
		p := startBy(t, c.dir, "acquire-by-default", "unshare", c.namespace)
		for i := 0; i < 2; i++ {
			if line := p.hear(); !strings.Contains(line, says) || !strings.Contains(line, "set $SESSION_LOCK_DIR") {
				t.Errorf("%q is not in %q", says, line)
			}
		}
	}
}

func TestAListingOfAnUntrustedDirectoryIsToldWithItsReason(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Sessions(dir); !errors.Is(err, fs.ErrPermission) ||
		!strings.HasSuffix(err.Error(), dir+" is writable by everybody and has no sticky bit (chmod +t)") {
		t.Error(err)
	}
}

func TestInfoAsText(t *testing.T) {
	for want, info := range map[string]Info{
		"nobody":               {},
		`PID 12 ("make -j2")`:  {State: Held, PID: 12, Command: "make -j2"},
		`PID 12 ("\x1b[2J\n")`: {State: Held, PID: 12, Command: "\x1b[2J\n"},
		"a process that is not visible from here":                  {State: Held},
		"PID 12, which is dead, through a process that it started": {State: Held, PID: 12, Orphaned: true},
		"PID 12, which is stopped":                                 {State: Held, PID: 12, Suspended: true},
		"an unknown process or nobody":                             {State: Unknown},
		`PID 12 ("a") on host "far", if it still lives`:            {State: Unknown, PID: 12, Command: "a", Host: "far"},
	} {
		if got := fmt.Sprint(info); got != want {
			t.Errorf("%q instead of %q", got, want)
		}
	}
	if got := fmt.Sprint(Free, Held, Unknown); got != "free held unknown" {
		t.Error(got)
	}
}

func TestVersion(t *testing.T) {
	var major, minor, patch int
	if n, err := fmt.Sscanf(Version(), "%d.%d.%d", &major, &minor, &patch); n != 3 {
		t.Error(Version(), err)
	}
}

func TestTokensRise(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for i := 0; i < 3; i++ {
		lock := must(Acquire(dir, "s"))
		token, err := lock.Token()
		if err != nil || token <= last {
			t.Error(token, err)
		}
		last = token
		// So it goes on when the file is gone.
		if i == 1 {
			os.Remove(lock.Path())
		}
		lock.Release()
		if token, err := lock.Token(); !errors.Is(err, ErrReleased) || token != 0 {
			t.Error(token, err)
		}
	}
}

func TestALockWithoutALabelHasNoToken(t *testing.T) {
	dir := t.TempDir()
	// Nothing can be written.
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 0, Max: limit.Max})
	lock := must(Acquire(dir, "s"))
	defer lock.Release()
	var failure *Error
	if _, err := lock.Token(); !errors.Is(err, ErrNoToken) || !errors.As(err, &failure) || failure.Path == "" {
		t.Error(err)
	}
	if err := lock.Check(); err != nil {
		t.Error(err)
	}
}

func TestSessionsAreThoseOfTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "locks")
	if sessions, err := Sessions(dir); err != nil || len(sessions) != 0 {
		t.Error(sessions, err)
	}
	for _, name := range []string{"b", "a", "c d/é"} {
		lock := must(Acquire(dir, name))
		if name == "b" {
			defer lock.Release()
		} else if err := lock.Release(); err != nil {
			t.Error(err)
		}
	}
	sessions, err := Sessions(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, session := range sessions {
		names = append(names, session.Name)
		if held := session.Name == "b"; (session.Holder.State == Held) != held ||
			(session.Holder.PID == os.Getpid()) != held {
			t.Errorf("%+v", session)
		}
	}
	if strings.Join(names, ",") != "b,a,c d/é" {
		t.Error(names)
	}
	// The user's own directory.
	t.Setenv("SESSION_LOCK_DIR", dir)
	if sessions, err := Sessions(""); err != nil || len(sessions) != 3 {
		t.Error(sessions, err)
	}
	file := filepath.Join(dir, "b.lock")
	var failure *Error
	if _, err := Sessions(file); !errors.Is(err, syscall.ENOTDIR) || !errors.As(err, &failure) || failure.Path != file {
		t.Error(err)
	}
	if _, err := Sessions("a\x00b"); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
}
