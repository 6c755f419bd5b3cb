/* setgid(2) in one thread makes glibc send a signal of its own to all the others (nptl(7)): it ends no wait
 * in one of them, for no handler of the host program has run. */
#include "test.h"

static void *set_gid_and_kill(void *holder) {
  for (int n = 0; n < 20; n++) {
    await_blocked(getpid());
    CHECK(setgid(getgid()) == 0);
  }
  await_blocked(getpid());
  kill_and_reap(*(pid_t *)holder);
  return NULL;
}

static void check_goes_on(int64_t timeout_ms, int cancel_fd) {
  session_lock_handle lock;
  pthread_t thread;
  pid_t holder = start_holder();
  CHECK_OK(pthread_create(&thread, NULL, set_gid_and_kill, &holder));
  CHECK_OK(session_lock_wait(".", "s", timeout_ms, cancel_fd, &lock));
  CHECK_OK(pthread_join(thread, NULL));
  CHECK_OK(session_lock_release(lock));
}

int main(void) {
  int cancel = eventfd(0, EFD_CLOEXEC);
  check_goes_on(-1, -1);
  check_goes_on(LIMIT_S * 1000, -1);
  check_goes_on(-1, cancel);
  check_goes_on(LIMIT_S * 1000, cancel);
  close(cancel);
}
