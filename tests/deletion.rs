//! Somebody deletes, renames or replaces the lock file under a holder. Exclusion between the old
//! holder and the next one is lost then; what remains is that nobody is ever given a lock on a file
//! that is not at the path, and that the old holder is told.

mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use session_lock::{Error, SessionLock, State};
use support::{Actor, Stage};

support::alone!(a_closed_descriptor_is_noticed, a_number_that_is_another_file_now_is_left_alone,
    a_descriptor_that_was_read_through_is_still_released;
    ("waiter", wait));

const WAITS: [Option<Duration>; 2] = [None, Some(Duration::from_secs(600))];

type Vandalism = (&'static str, fn(dir: &Path, file: &Path));
const VANDALISMS: [Vandalism; 6] = [
    ("unlinked", |_, file| fs::remove_file(file).unwrap()),
    ("renamed", |_, file| fs::rename(file, file.with_extension("old")).unwrap()),
    ("replaced", |dir, file| {
        fs::write(dir.join("new"), "").unwrap();
        fs::rename(dir.join("new"), file).unwrap();
    }),
    ("replaced by a copy with the same label", |dir, file| {
        fs::copy(file, dir.join("new")).unwrap();
        fs::rename(dir.join("new"), file).unwrap();
    }),
    ("directory renamed", |dir, _| fs::rename(dir, dir.with_extension("old")).unwrap()),
    ("directory deleted", |dir, _| fs::remove_dir_all(dir).unwrap()),
];

/// Waits for `s` in the directory `args[0]`, for `args[1]` milliseconds if that is a number.
fn wait(stage: &mut Stage) {
    let timeout = stage.args[1].parse().ok().map(Duration::from_millis);
    match SessionLock::wait(Some(Path::new(&stage.args[0])), "s", timeout, None) {
        Ok(lock) => {
            stage.say(&format!("holds {}", support::inode(lock.path())));
            stage.hear("release");
            lock.check().unwrap();
            lock.release().unwrap();
            stage.say("released");
        }
        Err(error) => stage.say(&error.errno().to_string()),
    }
}

fn start_waiter(dir: &Path, timeout: Option<Duration>) -> Actor {
    let timeout = timeout.map_or("endless".to_owned(), |timeout| timeout.as_millis().to_string());
    Actor::start("waiter", &[dir.to_str().unwrap(), &timeout])
}

#[track_caller]
fn assert_stale(result: Result<(), Error>, after: &str) {
    let error = result.expect_err(after);
    assert!(matches!(error, Error::Stale { .. }), "{after}: {error}");
    assert_eq!(error.errno(), libc::ESTALE);
}

#[test]
fn the_waiter_gets_the_file_at_the_path_and_the_old_holder_is_told() {
    for timeout in WAITS {
        for (what, vandalise) in VANDALISMS {
            let scratch = support::scratch();
            let dir = scratch.path().join("locks");
            let old = SessionLock::acquire(Some(&dir), "s").unwrap();
            let path = old.path().to_path_buf();
            let old_inode = support::inode(&path);
            // Keeps the number from being given to the next file.
            let _old_file = File::open(&path).unwrap();
            let mut waiter = start_waiter(&dir, timeout);
            support::until_blocked(waiter.pid(), old_inode);

            old.check().unwrap();
            vandalise(&dir, &path);
            assert_stale(old.check(), what);
            // The waiter is still in the old file's queue; it is granted that, and must not take it.
            assert_stale(old.release(), what);
            let answer = waiter.next().unwrap();
            let new_inode = support::inode(&path);
            assert_ne!(new_inode, old_inode, "{what}");
            assert_eq!(answer, format!("holds {new_inode}"), "{what}");
            let third = SessionLock::acquire(Some(&dir), "s");
            assert!(matches!(third, Err(Error::Held { .. })), "{what}: {third:?}");
            let holder = session_lock::holder(Some(&dir), "s").unwrap();
            assert_eq!((holder.state, holder.pid), (State::Held, Some(waiter.pid())), "{what}");
            waiter.say("release");
            waiter.hear("released");
            waiter.finish();
        }
    }
}

#[test]
fn the_waiter_queues_behind_a_new_holder() {
    for timeout in WAITS {
        let scratch = support::scratch();
        let dir = Some(scratch.path());
        let old = SessionLock::acquire(dir, "s").unwrap();
        let path = old.path().to_path_buf();
        let mut waiter = start_waiter(scratch.path(), timeout);
        support::until_blocked(waiter.pid(), support::inode(&path));
        fs::remove_file(&path).unwrap();
        let new = SessionLock::acquire(dir, "s").unwrap();
        assert_stale(old.release(), "the old lock");
        support::until_blocked(waiter.pid(), support::inode(&path));
        new.check().unwrap();
        new.release().unwrap();
        waiter.hear(&format!("holds {}", support::inode(&path)));
        waiter.say("release");
        waiter.hear("released");
        waiter.finish();
    }
}

#[test]
fn the_deadline_holds_for_the_whole_attempt() {
    let scratch = support::scratch();
    let [dir, elsewhere] = ["locks", "elsewhere"].map(|name| scratch.path().join(name));
    let old = SessionLock::acquire(Some(&dir), "s").unwrap();
    let new = SessionLock::acquire(Some(&elsewhere), "s").unwrap();
    let mut waiter = start_waiter(&dir, Some(Duration::from_millis(300)));
    let queued =
        support::Flock { pid: waiter.pid(), ino: support::inode(old.path()), blocked: true };
    // On a machine that is very busy the wait can be over before anybody sees it.
    support::until("the waiter waits, or has ended", || {
        support::flocks().contains(&queued) || waiter.child.try_wait().unwrap().is_some()
    });
    // There is no moment at which the file at the path is not locked.
    fs::rename(new.path(), old.path()).unwrap();
    assert_stale(old.release(), "the old lock");
    waiter.hear(&libc::ETIMEDOUT.to_string());
    waiter.finish();
    assert_stale(new.release(), "the renamed lock");
}

// ------------------------------------------------------------------- the descriptor, in our process

/// The number of the only descriptor that is open for the file.
fn number_of(path: &Path) -> i32 {
    let is_file = |(_, target): &(String, String)| Path::new(target) == path;
    let open: Vec<_> = support::open_descriptors().into_iter().filter(is_file).collect();
    assert_eq!(open.len(), 1, "{open:?}");
    open[0].0.parse().unwrap()
}

fn a_closed_descriptor_is_noticed(_: &mut Stage) {
    let dir = support::scratch();
    let dir = Some(dir.path());
    let lock = SessionLock::acquire(dir, "s").unwrap();
    // SAFETY: the library says itself that it can bear this.
    assert_eq!(unsafe { libc::close(number_of(lock.path())) }, 0);
    assert_stale(lock.check(), "closed");
    let next = SessionLock::acquire(dir, "s").unwrap();
    assert_stale(lock.check(), "closed");
    assert_stale(lock.release(), "closed");
    next.check().unwrap();
    next.release().unwrap();
}

fn a_number_that_is_another_file_now_is_left_alone(_: &mut Stage) {
    let dir = support::scratch();
    let lock = SessionLock::acquire(Some(dir.path()), "s").unwrap();
    let number = number_of(lock.path());
    // Even another description of the lock file itself.
    for name in ["other", "s.lock"] {
        let other = File::options().create(true).append(true).open(dir.path().join(name)).unwrap();
        // SAFETY: no memory is involved; the number is the library's, see above.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
        assert_stale(lock.check(), name);
    }
    assert_stale(lock.release(), "dup2");
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    assert_ne!(flags, -1, "the library has closed a descriptor that was not its own");
}

/// A program that copies or reads all that it has open moves the offset, which marks the descriptor.
fn a_descriptor_that_was_read_through_is_still_released(_: &mut Stage) {
    let dir = support::scratch();
    for offset in [0, 1, i64::from(u32::MAX)] {
        let lock = SessionLock::acquire(Some(dir.path()), "s").unwrap();
        let number = number_of(lock.path());
        // SAFETY: no memory is involved; the number is the library's, whose offset may be anything.
        assert_eq!(unsafe { libc::lseek64(number, offset, libc::SEEK_SET) }, offset);
        lock.check().unwrap();
        lock.release().unwrap();
        assert!(support::is_free(&dir.path().join("s.lock")), "{offset}");
    }
}
