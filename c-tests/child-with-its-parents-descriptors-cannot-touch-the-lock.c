/* A child that has the very descriptors of its parent, and in which no fork handler has run (clone(2) with
 * CLONE_FILES): its check and release of its parent's handle say -EPERM, and the parent's lock stays. */
#include "test.h"

static void share_descriptors_with_a_child(session_lock_handle lock) {
  int before = count_fds();
  pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  CHECK(child != -1);
  if (child == 0) {
    CHECK_IS(session_lock_check(lock), -EPERM);
    CHECK_IS(session_lock_release(lock), -EPERM);
    CHECK_IS(session_lock_release(lock), -EBADF);
    CHECK_IS(session_lock_check(lock), -EBADF);
    _exit(0);
  }
  finish(child);
  CHECK_IS(count_fds(), before);
  CHECK_OK(session_lock_check(lock));
  CHECK(!is_free("s.lock"));
}

int main(void) {
  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  for (int round = 0; round < 2; round++) share_descriptors_with_a_child(lock);
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
}
