//go:build linux

package sessionlock

// #include <session_lock.h>
import "C"

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// State says whether a session is locked.
type State int

// Free is only said when it is known.
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

// Info says who holds a session's lock. It can be out of date at once: never gate on it.
type Info struct {
	State      State
	PID        int       // 0: not visible from here
	Orphaned   bool      // that process is dead, and one that it started still holds the lock
	Confirmed  bool      // by the kernel's lock table; otherwise only the label in the file says so
	AcquiredAt time.Time // zero: unknown
	Command    string    // at most 63 bytes that another process wrote: any bytes
	Host       string
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
	}
	if info.acquired_at_ms != 0 {
		i.AcquiredAt = time.UnixMilli(int64(info.acquired_at_ms))
	}
	return i
}

// Holder says who holds the session's lock. It never takes the lock, not even for a moment, and
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
