/* A lock that is held all the time, with 300 waiters in its queue, is never called free, however busy the
 * kernel's table of locks is: another process takes and releases other locks as fast as it can. */
#include "test.h"

enum { WAITERS = 300, OTHERS = 4 };

static void *wait_without_the_library(void *unused) {
  int fd = open("s.lock", O_RDWR | O_CLOEXEC);
  CHECK(fd != -1);
  while (flock(fd, LOCK_EX) == -1) CHECK(errno == EINTR);
  return unused;
}

static void hold_beside_waiters(struct hint held) {
  session_lock_handle lock;
  pthread_attr_t small;
  pthread_t thread;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(pthread_attr_init(&small));
  CHECK_OK(pthread_attr_setstacksize(&small, 64 * 1024));
  for (int n = 0; n < WAITERS; n++) {
    CHECK_OK(pthread_create(&thread, &small, wait_without_the_library, NULL));
  }
  AWAIT(threads_in_flock() == WAITERS);
  tell(held);
  for (;;) pause();
}

static void come_and_go(void) {
  char session[16];
  for (int n = 0;; n++) {
    session_lock_handle lock;
    snprintf(session, sizeof session, "other-%d", n % OTHERS);
    CHECK_OK(session_lock_acquire(".", session, &lock));
    CHECK_OK(session_lock_release(lock));
  }
}

int main(void) {
  struct session_lock_holder_info info;
  struct hint held = new_hint();
  pid_t holder = start();
  if (holder == 0) hold_beside_waiters(held);
  hear(held);
  end_hint(held);
  pid_t busy = start();
  if (busy == 0) come_and_go();
  AWAIT(access("other-3.lock", F_OK) == 0);

  /* A long run: a million answers, or ten minutes. */
  int64_t end = now_us() + rounds_up_to(600, 1) * INT64_C(1000000);
  int answers = 0, unknown = 0, called_free = 0;
  for (; answers < 1000000 && (answers < 100 || now_us() < end); answers++) {
    CHECK_OK(session_lock_holder(".", "s", &info, sizeof info));
    unknown += info.state == SESSION_LOCK_UNKNOWN;
    called_free += info.state == SESSION_LOCK_FREE;
    CHECK(info.state != SESSION_LOCK_HELD || info.pid == holder);
  }
  printf("%d answers: %d unknown, %d free\n", answers, unknown, called_free);
  CHECK_IS(called_free, 0);

  kill_and_reap(holder);
  AWAIT(session_lock_holder(".", "s", &info, sizeof info) == 0 && info.state == SESSION_LOCK_FREE);
  kill_and_reap(busy);
}
