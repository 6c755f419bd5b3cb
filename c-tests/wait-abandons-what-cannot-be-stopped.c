/* Where the thread that is blocked in flock(2) cannot be stopped, the wait ends in time all the same, and
 * what the thread gets later is nobody's. Argument: "fuse" on a filesystem whose flock(2) cannot be
 * interrupted; else the signal that would stop the thread cannot be sent (RLIMIT_SIGPENDING). */
#include "test.h"

/* Generous, for a busy machine: what is meant is that it does not take until the holder ends. */
enum { LATE_US = 10000000, THREADS = 5 };

static void end_with_such_a_thread(struct hint go, struct hint timed_out) {
  session_lock_handle lock;
  hear(go);
  CHECK_IS(session_lock_wait(".", "s", 20, -1, &lock), -ETIMEDOUT);
  tell(timed_out);
  _exit(0);
}

int main(int argc, char **argv) {
  session_lock_handle lock;
  int cancel = eventfd(1, EFD_CLOEXEC);
  struct hint go = new_hint(), timed_out = new_hint();
  if (argc < 2 || strcmp(argv[1], "fuse") != 0) {
    struct rlimit none = {0, 0};
    CHECK(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
  }
  pid_t holder = start_holder(), child = start();
  if (child == 0) end_with_such_a_thread(go, timed_out);
  struct left before = count_left();
  /* On a busy machine a deadline can be over before the thread is blocked, or is there at all. */
  for (int round = 0; threads_in_flock() < THREADS; round++) {
    CHECK(round < 100);
    int64_t begin = now_us();
    CHECK_IS(session_lock_wait(".", "s", 50, -1, &lock), -ETIMEDOUT);
    int64_t took = now_us() - begin;
    CHECK(lock == 0);
    CHECK(took >= 50000 && took < 50000 + LATE_US);
  }
  CHECK_IS(session_lock_wait(".", "s", -1, cancel, &lock), -ECANCELED);
  CHECK(lock == 0);
  CHECK(threads_in_flock() >= THREADS);

  /* Whether a process can end before such a thread does is the filesystem's business. */
  tell(go);
  hear(timed_out);

  /* The threads get the lock one after the other; it goes with each of them. */
  kill_and_reap(holder);
  finish(child);
  check_left(before);
  AWAIT(is_free("s.lock"));
  CHECK_OK(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock));
  CHECK_OK(session_lock_check(lock));
  CHECK(!is_free("s.lock"));
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
  end_hint(go);
  end_hint(timed_out);
}
