/* In a daemon that has closed its standard descriptors, no descriptor of the library becomes 0, 1 or 2: a
 * stray message harms neither a lock nor a wait, and does not end up in the lock file. */
#include "test.h"

static pid_t holder;

static bool is_any_standard_one_open(void) {
  return is_open(0) || is_open(1) || is_open(2);
}

static void *look_while_it_waits(void *unused) {
  await_blocked(getpid());
  bool any = is_any_standard_one_open();
  kill_and_reap(holder);
  return any ? &holder : unused;
}

static void say_something(void) {
  CHECK(write(1, "hello from a daemon\n", 20) == -1);
  CHECK(write(2, "hello from a daemon\n", 20) == -1);
}

static void check_beside_closed(int closed) {
  session_lock_handle lock;
  struct session_lock_holder_info info;
  pthread_t thread;
  void *any;
  for (int fd = 0; fd <= 2; fd++) {
    if (closed & 1 << fd) close(fd);
  }
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  for (int fd = 0; fd <= 2; fd++) CHECK(is_open(fd) == !(closed & 1 << fd));
  if (closed == 7) say_something();
  CHECK_OK(session_lock_check(lock));
  CHECK_OK(session_lock_holder(".", "s", &info, sizeof info));
  CHECK(info.state == SESSION_LOCK_HELD && info.pid == getpid() && info.acquired_at_ms > 0);
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
  struct stat file;
  CHECK(stat("s.lock", &file) == 0 && file.st_size < 65536);

  if (closed != 7) return;
  holder = start_holder();
  CHECK(!is_any_standard_one_open());
  CHECK_OK(pthread_create(&thread, NULL, look_while_it_waits, NULL));
  CHECK_OK(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock));
  CHECK_OK(pthread_join(thread, &any));
  CHECK(any == NULL && !is_any_standard_one_open());
  CHECK_OK(session_lock_release(lock));
}

/* Where it could be nothing else, there is none. */
static void check_where_only_a_standard_one_is_left(int unused) {
  (void)unused;
  session_lock_handle lock = 1;
  struct rlimit limit, three;
  close(0);
  int before = count_fds();
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  three = (struct rlimit){3, limit.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &three) == 0);
  CHECK_IS(session_lock_acquire(".", "s", &lock), -EMFILE);
  CHECK(lock == 0);
  CHECK_IS(session_lock_wait(".", "s", 20, -1, &lock), -EMFILE);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK_IS(count_fds(), before);
  CHECK(!is_open(0));
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK(!is_open(0));
  CHECK_OK(session_lock_release(lock));
}

static void check_in_a_child(void (*check)(int), int closed) {
  pid_t child = start();
  if (child == 0) {
    check(closed);
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_IS(status, 0);
}

int main(void) {
#ifdef __GLIBC__
  /* What fails is still told. (With musl, stderr is a constant.) */
  stderr = fdopen(fcntl(2, F_DUPFD_CLOEXEC, 10), "w");
  CHECK(stderr != NULL && setvbuf(stderr, NULL, _IONBF, 0) == 0);
#endif
  for (int closed = 1; closed <= 7; closed++) check_in_a_child(check_beside_closed, closed);
  check_in_a_child(check_where_only_a_standard_one_is_left, 0);
}
