/* The host program closes all descriptors under a held lock: check and release say -ESTALE. Whatever
 * has taken the number since is left alone, even if it is a lock on the very same file. */
#include "test.h"

static session_lock_handle lock;
static int number; /* the lock's descriptor */

/* Takes the lock, and closes its descriptor with all others, as closefrom(3) does. */
static void lose(void) {
  char link[64], target[4096];
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  for (number = 3;; number++) {
    CHECK(number < 1024);
    snprintf(link, sizeof link, "/proc/self/fd/%d", number);
    ssize_t length = readlink(link, target, sizeof target);
    if (length > 7 && memcmp(target + length - 7, "/s.lock", 7) == 0) break;
  }
  CHECK_OK(session_lock_check(lock));
  for (int fd = 3; fd < 1024; fd++) close(fd);
  CHECK(!is_open(number));
}

static void check_stale(void) {
  CHECK_IS(session_lock_check(lock), -ESTALE);
  /* A forked child closes its copies of lock descriptors; this number is none any more. */
  bool was_open = is_open(number);
  pid_t child = start();
  if (child == 0) {
    CHECK(is_open(number) == was_open);
    _exit(0);
  }
  finish(child);
  CHECK_IS(session_lock_release(lock), -ESTALE);
  CHECK_IS(session_lock_release(lock), -EBADF);
  CHECK(is_open(number) == was_open);
}

static void open_at(int fd, const char *path) {
  int new = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK(new != -1);
  if (new == fd) return;
  CHECK(dup3(new, fd, O_CLOEXEC) == fd);
  close(new);
}

static void nobody_took_it(void) {
  lose();
  check_stale();
  CHECK(is_free("s.lock"));
}

static void a_file_took_it(void) {
  char text[8] = "";
  lose();
  open_at(number, "a-file");
  CHECK(write(number, "precious", 8) == 8);
  check_stale();
  CHECK(lseek(number, 0, SEEK_CUR) == 8);
  CHECK(pread(number, text, 8, 0) == 8 && memcmp(text, "precious", 8) == 0);
  close(number);
}

static void a_pipe_took_it(void) {
  int ends[2];
  lose();
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  number = ends[0];
  check_stale();
  CHECK(write(ends[1], "x", 1) == 1);
  close(ends[0]);
  close(ends[1]);
}

static void a_strangers_lock_took_it(void) {
  char text[8] = "";
  lose();
  open_at(number, "s.lock");
  CHECK(flock(number, LOCK_EX | LOCK_NB) == 0);
  CHECK(pwrite(number, "stranger", 8, 0) == 8);
  check_stale();
  CHECK(!is_free("s.lock"));
  CHECK(pread(number, text, 8, 0) == 8 && memcmp(text, "stranger", 8) == 0);
  close(number);
}

static void our_next_lock_took_it(void) {
  session_lock_handle next;
  struct session_lock_holder_info info;
  lose();
  CHECK_OK(session_lock_acquire(".", "s", &next));
  CHECK(is_open(number));
  CHECK_IS(session_lock_check(lock), -ESTALE);
  CHECK_IS(session_lock_release(lock), -ESTALE);
  CHECK_OK(session_lock_check(next));
  CHECK(!is_free("s.lock"));
  CHECK_OK(session_lock_holder(".", "s", &info, sizeof info));
  CHECK(info.state == SESSION_LOCK_HELD && info.pid == getpid() && info.acquired_at_ms > 0);
  CHECK_OK(session_lock_release(next));
  CHECK(is_free("s.lock"));
}

int main(void) {
  nobody_took_it();
  a_file_took_it();
  a_pipe_took_it();
  a_strangers_lock_took_it();
  our_next_lock_took_it();
}
