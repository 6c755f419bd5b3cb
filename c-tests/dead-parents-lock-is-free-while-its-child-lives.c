/* The parent is killed, its child lives on: the lock is free at once, also the one that another thread
 * of the parent was waiting for when the child was forked. */
#include "test.h"

static void *wait_for_b(void *cancel_fd) {
  session_lock_handle lock;
  session_lock_wait(".", "b", -1, *(int *)cancel_fd, &lock);
  return NULL;
}

int main(void) {
  struct hint forked = new_hint();
  pid_t *grandchild = shared(sizeof *grandchild);
  session_lock_handle a, b;
  CHECK_OK(session_lock_acquire(".", "b", &b));
  /* Orphans come to this process, so that it can reap the grandchild. */
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  pid_t parent = start();
  if (parent == 0) {
    pthread_t thread;
    int cancel = eventfd(0, EFD_CLOEXEC);
    CHECK_OK(session_lock_acquire(".", "a", &a));
    CHECK_OK(pthread_create(&thread, NULL, wait_for_b, &cancel));
    await_blocked(getpid());
    pid_t child = fork();
    CHECK(child != -1);
    if (child == 0) {
      alarm(LIMIT_S);
      *grandchild = getpid();
      tell(forked);
    }
    for (;;) pause();
  }
  hear(forked);
  CHECK_IS(session_lock_acquire(".", "a", &a), -EWOULDBLOCK);
  kill_and_reap(parent);
  CHECK(kill(*grandchild, 0) == 0);
  CHECK_OK(session_lock_acquire(".", "a", &a));
  CHECK_OK(session_lock_release(b));
  CHECK_OK(session_lock_acquire(".", "b", &b));
  CHECK(kill(*grandchild, 0) == 0);
  kill_and_reap(*grandchild);
  CHECK_OK(session_lock_release(a));
  CHECK_OK(session_lock_release(b));
  end_hint(forked);
}
