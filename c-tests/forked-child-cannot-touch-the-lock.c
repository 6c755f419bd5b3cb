/* A child's check and release of its parent's handle say -EPERM (a second release: -EBADF) and change
 * nothing; neither does its exit. It can ask for the lock like anybody else. */
#include "test.h"

int main(void) {
  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  for (int round = 0; round < 4; round++) {
    pid_t child = start();
    if (child == 0) {
      session_lock_handle own;
      CHECK_IS(session_lock_check(lock), -EPERM);
      CHECK_IS(session_lock_acquire(".", "s", &own), -EWOULDBLOCK);
      if (round > 0) {
        CHECK_IS(session_lock_release(lock), -EPERM);
        CHECK_IS(session_lock_release(lock), -EBADF);
        CHECK_IS(session_lock_check(lock), -EBADF);
      }
      CHECK_IS(session_lock_acquire(".", "s", &own), -EWOULDBLOCK);
      CHECK_OK(session_lock_acquire(".", "other", &own));
      CHECK(own != lock);
      if (round > 1) exit(0);
      _exit(0);
    }
    finish(child);
    CHECK_OK(session_lock_check(lock));
    CHECK(!is_free("s.lock"));
    CHECK(is_free("other.lock"));
  }
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
}
