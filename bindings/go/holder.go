//go:build linux

package sessionlock

/*
#include <string.h>
#include <session_lock.h>

int sessionlockVisit(void *, char *, struct session_lock_holder_info *, size_t);
*/
import "C"

import (
	"fmt"
	"path/filepath"
	"runtime/cgo"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// State says whether a session is locked.
type State int

// Free is only returned when that is certain.
const (
	Free    State = C.SESSION_LOCK_FREE
	Held    State = C.SESSION_LOCK_HELD
	Unknown State = C.SESSION_LOCK_UNKNOWN
)

func (s State) String() string {
	switch s {
	case Free:
		return "free"
	case Held:
		return "held"
	}
	return "unknown"
}

// Info says who holds a session's lock. It may be out of date at once: never use it to decide
// whether to go ahead.
type Info struct {
	State      State
	PID        int       // 0: not visible from here
	Orphaned   bool      // that process is dead, and one that it started still holds the lock
	Confirmed  bool      // by the kernel's lock table; otherwise only the label in the file says so
	AcquiredAt time.Time // zero: unknown
	Command    string    // at most 63 bytes that another process wrote: any bytes
	Host       string
	Waiters    int  // how many processes wait for the lock, as far as visible
	Suspended  bool // the holder is stopped (SIGSTOP, Ctrl-Z, a debugger)
}

// String describes the holder in the middle of a sentence, as in "locked by PID 123 (\"make -j2\")".
func (i Info) String() string {
	if i.State == Free {
		return "nobody"
	}
	text := fmt.Sprintf("PID %d", i.PID)
	if i.PID == 0 {
		text = "a process that is not visible from here"
	}
	if i.Command != "" {
		text += fmt.Sprintf(" (%+q)", i.Command)
	}
	if i.Suspended {
		text += ", which is stopped"
	}
	if i.Orphaned {
		text += ", which is dead, through a process that it started"
	}
	if i.State == Unknown {
		if i.PID == 0 && i.Command == "" && i.Host == "" {
			return "an unknown process or nobody"
		}
		text += fmt.Sprintf(" on host %+q, if it still lives", i.Host)
	}
	return text
}

func newInfo(info *C.struct_session_lock_holder_info) Info {
	i := Info{
		State:     State(info.state),
		PID:       int(info.pid),
		Orphaned:  info.orphaned != 0,
		Confirmed: info.confirmed != 0,
		Command:   C.GoString(&info.command[0]),
		Host:      C.GoString(&info.host[0]),
		Waiters:   int(info.waiters),
		Suspended: info.suspended != 0,
	}
	if info.acquired_at_ms != 0 {
		i.AcquiredAt = time.UnixMilli(int64(info.acquired_at_ms))
	}
	return i
}

// Holder tells who holds the session's lock. It never takes the lock, not even for a moment, and
// creates nothing. A session that nobody has ever locked is [Free].
func Holder(dir, session string) (Info, error) {
	const op = "holder"
	t, err := newTarget(op, dir, session)
	if err != nil {
		return Info{State: Unknown}, err
	}
	var info C.struct_session_lock_holder_info
	code := C.session_lock_holder(t.cDir, t.cSession, &info, C.size_t(unsafe.Sizeof(info)))
	if code != 0 {
		return Info{State: Unknown}, t.failed(op, syscall.Errno(-code))
	}
	return newInfo(&info), nil
}

// Session is a session that has a lock file, and who holds it.
type Session struct {
	Name   string
	Holder Info
}

// Sessions returns every session that has a lock file in the directory: held ones first, then by name.
// Like [Holder] it takes no lock and creates nothing. A missing directory has no sessions.
func Sessions(dir string) ([]Session, error) {
	const op = "list"
	t := &target{dir: dir, path: dir}
	if strings.IndexByte(dir, 0) >= 0 {
		return nil, t.failed(op, syscall.EINVAL)
	}
	if dir != "" {
		t.cDir = cString(dir)
	} else if path, err := Path("", "s"); err == nil {
		// Any session tells where the user's own directory is.
		t.path = filepath.Dir(path)
	}
	var sessions []Session
	context := cgo.NewHandle(&sessions)
	defer context.Delete()
	visit := C.session_lock_visitor(C.sessionlockVisit)
	if code := C.session_lock_list(t.cDir, visit, unsafe.Pointer(&context)); code != 0 {
		return nil, t.failed(op, syscall.Errno(-code))
	}
	return sessions, nil
}

//export sessionlockVisit
func sessionlockVisit(context unsafe.Pointer, name *C.char, info *C.struct_session_lock_holder_info, size C.size_t) C.int {
	// The library may be older or newer than the header that we were compiled with.
	var known C.struct_session_lock_holder_info
	if size > C.size_t(unsafe.Sizeof(known)) {
		size = C.size_t(unsafe.Sizeof(known))
	}
	C.memcpy(unsafe.Pointer(&known), unsafe.Pointer(info), size)
	sessions := (*cgo.Handle)(context).Value().(*[]Session)
	*sessions = append(*sessions, Session{C.GoString(name), newInfo(&known)})
	return 0
}
