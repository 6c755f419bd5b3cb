/* Somebody unlinks, renames or replaces the lock file under its holder: the holder's check and release
 * say -ESTALE; whoever was waiting ends up with a lock on the file at the path, and a third is refused. */
#include "test.h"

static void delete(void) {
  CHECK(unlink("s.lock") == 0);
}

static void move(void) {
  CHECK(rename("s.lock", "elsewhere") == 0);
}

static void replace(void) {
  int fd = open("new", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd != -1);
  close(fd);
  CHECK(rename("new", "s.lock") == 0);
}

static session_lock_handle waited_for;

static void *wait_for_it(void *unused) {
  CHECK_OK(session_lock_wait(".", "s", -1, -1, &waited_for));
  return unused;
}

int main(void) {
  void (*const outsiders[])(void) = {delete, move, replace};
  for (int n = 0; n < 3; n++) {
    pthread_t thread;
    session_lock_handle old, third;
    CHECK_OK(session_lock_acquire(".", "s", &old));
    CHECK_OK(pthread_create(&thread, NULL, wait_for_it, NULL));
    await_blocked(getpid());
    CHECK_OK(session_lock_check(old));
    outsiders[n]();
    CHECK_IS(session_lock_check(old), -ESTALE);
    CHECK_IS(session_lock_release(old), -ESTALE);
    CHECK_IS(session_lock_release(old), -EBADF);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(session_lock_check(waited_for));
    CHECK(!is_free("s.lock"));
    CHECK_IS(session_lock_acquire(".", "s", &third), -EWOULDBLOCK);
    CHECK_OK(session_lock_release(waited_for));
    CHECK(is_free("s.lock"));
  }
}
