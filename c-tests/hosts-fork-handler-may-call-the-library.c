/* A host program's own fork handlers may call the library: before the fork the lock is held and can be
 * released and taken, in the parent it is held, in the child it is the parent's. A constructor registers
 * them, which in a static program runs beside the library's own. */
#include "test.h"

static session_lock_handle lock;
static int before, in_parent;

static void prepare(void) {
  before++;
  CHECK_OK(session_lock_check(lock));
  CHECK_OK(session_lock_release(lock));
  CHECK_OK(session_lock_acquire(".", "s", &lock));
}

static void parent(void) {
  session_lock_handle other;
  in_parent++;
  CHECK_OK(session_lock_check(lock));
  CHECK_OK(session_lock_acquire(".", "parents", &other));
  CHECK_OK(session_lock_release(other));
}

static void child(void) {
  session_lock_handle other;
  CHECK_IS(session_lock_check(lock), -EPERM);
  CHECK_IS(session_lock_acquire(".", "s", &other), -EWOULDBLOCK);
  CHECK_IS(session_lock_wait(".", "s", 1, -1, &other), -ETIMEDOUT);
  CHECK_IS(session_lock_release(lock), -EPERM);
  CHECK_OK(session_lock_acquire(".", "child", &other));
  CHECK_OK(session_lock_release(other));
}

__attribute__((constructor)) static void add_fork_handlers(void) {
  CHECK_OK(pthread_atfork(prepare, parent, child));
}

int main(void) {
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  for (int round = 0; round < rounds(20); round++) {
    pid_t pid = fork();
    CHECK(pid != -1);
    if (pid == 0) _exit(0);
    finish(pid);
    CHECK(before == round + 1 && in_parent == round + 1);
    CHECK(!is_free("s.lock"));
  }
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
}
