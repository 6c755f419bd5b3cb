/* Each row of the table of errors, by each function that it names; *lock is 0 after every failure, and
 * nothing is left open. (Misplaced handles, signals, forks and deletions have programs of their own.) */
#include "test.h"

static session_lock_handle lock;
static struct session_lock_holder_info info;
static char path[4096];

#define GARBAGE UINT64_MAX

/* Both calls that give a lock, with garbage in its place before. */
static void check_obtain(const char *dir, const char *session, int expected) {
  lock = GARBAGE;
  CHECK_IS(session_lock_acquire(dir, session, &lock), expected);
  CHECK(lock == 0);
  lock = GARBAGE;
  CHECK_IS(session_lock_wait(dir, session, 0, -1, &lock), expected == -EWOULDBLOCK ? -ETIMEDOUT : expected);
  CHECK(lock == 0);
}

static void check_wait(int64_t timeout_ms, int cancel_fd, int expected) {
  lock = GARBAGE;
  CHECK_IS(session_lock_wait(".", "s", timeout_ms, cancel_fd, &lock), expected);
  CHECK(lock == 0);
}

static void check_all(const char *dir, const char *session, int expected) {
  check_obtain(dir, session, expected);
  CHECK_IS(session_lock_holder(dir, session, &info, sizeof info), expected);
  CHECK_IS(session_lock_path(dir, session, path, sizeof path), expected);
}

static void null_everywhere(void) {
  check_all(".", NULL, -EINVAL);
  check_all(NULL, NULL, -EINVAL);
  CHECK_IS(session_lock_acquire(".", "s", NULL), -EINVAL);
  CHECK_IS(session_lock_acquire(NULL, NULL, NULL), -EINVAL);
  CHECK_IS(session_lock_wait(".", "s", -1, -1, NULL), -EINVAL);
  CHECK_IS(session_lock_wait(NULL, NULL, -1, -1, NULL), -EINVAL);
  CHECK_IS(session_lock_holder(".", "s", NULL, sizeof info), -EINVAL);
  CHECK_IS(session_lock_holder(NULL, NULL, NULL, 0), -EINVAL);
  CHECK_IS(session_lock_path(".", "s", NULL, sizeof path), -EINVAL);
  CHECK_IS(session_lock_path(NULL, NULL, NULL, 0), -EINVAL);
}

static void bad_arguments(void) {
  int closed = next_fd();
  check_all(".", "", -EINVAL);
  check_all("", "s", -EINVAL);
  check_wait(-2, -1, -EINVAL);
  check_wait(INT64_MIN, -1, -EINVAL);
  check_wait(-1, -2, -EINVAL);
  check_wait(-1, INT32_MIN, -EINVAL);
  check_wait(-1, closed, -EINVAL);
  check_wait(1000, closed, -EINVAL);
  CHECK_IS(session_lock_holder(".", "s", &info, 0), -EINVAL);
  CHECK_IS(session_lock_holder(".", "s", &info, 15), -EINVAL);
}

/* 250 bytes and ".lock" are the 255 that a file name may have. */
static void long_names(void) {
  char name[252];
  memset(name, 'x', sizeof name);
  name[251] = 0;
  check_all(".", name, -ENAMETOOLONG);
  name[0] = '/'; /* counts as three bytes */
  name[249] = 0;
  check_all(".", name, -ENAMETOOLONG);
  name[248] = 0;
  CHECK_OK(session_lock_acquire(".", name, &lock));
  CHECK_OK(session_lock_release(lock));
  name[0] = 'x';
  memset(name, 'x', 250);
  name[250] = 0;
  CHECK_OK(session_lock_path(".", name, path, sizeof path));
  CHECK_OK(session_lock_acquire(".", name, &lock));
  CHECK_OK(session_lock_release(lock));
}

static void unfit_files(void) {
  CHECK(symlink("s.lock", "link.lock") == 0);
  check_obtain(".", "link", -ELOOP);
  CHECK_IS(session_lock_holder(".", "link", &info, sizeof info), -ELOOP);
  CHECK(mkfifo("fifo.lock", 0600) == 0);
  check_obtain(".", "fifo", -EPERM);
  CHECK(mkdir("dir.lock", 0700) == 0);
  lock = GARBAGE;
  CHECK(session_lock_acquire(".", "dir", &lock) < 0 && lock == 0);
  CHECK(link("s.lock", "second-name.lock") == 0);
  check_obtain(".", "second-name", -EPERM);
  CHECK(unlink("second-name.lock") == 0);
}

static void unfit_directories(void) {
  CHECK(mkdir("everybodys", 0700) == 0 && chmod("everybodys", 0777) == 0);
  check_obtain("everybodys", "s", -EPERM);
  CHECK(chmod("everybodys", 01777) == 0);
  CHECK_OK(session_lock_acquire("everybodys", "s", &lock));
  CHECK_OK(session_lock_release(lock));
  check_obtain("s.lock", "s", -ENOTDIR);
  CHECK_IS(session_lock_holder("s.lock", "s", &info, sizeof info), -ENOTDIR);
  check_obtain("/proc/no/such/directory", "s", -ENOENT);
  if (geteuid() != 0) {
    CHECK(mkdir("closed", 0500) == 0);
    check_obtain("closed", "s", -EACCES);
  }
}

static void held(void) {
  session_lock_handle holder;
  int readable = eventfd(1, EFD_CLOEXEC);
  CHECK_OK(session_lock_acquire(".", "s", &holder));
  check_obtain(".", "s", -EWOULDBLOCK);
  check_wait(0, -1, -ETIMEDOUT);
  check_wait(20, -1, -ETIMEDOUT);
  check_wait(-1, readable, -ECANCELED);
  check_wait(20, readable, -ECANCELED);
  CHECK_OK(session_lock_release(holder));
  check_wait(-1, readable, -ECANCELED);
  close(readable);
}

int main(void) {
  int before = count_fds();
  null_everywhere();
  CHECK(access("s.lock", F_OK) == -1);
  held();
  bad_arguments();
  long_names();
  unfit_files();
  unfit_directories();
  held();
  await_fds(before);
  await_not_blocked(getpid());
  CHECK(is_free("s.lock"));
}
