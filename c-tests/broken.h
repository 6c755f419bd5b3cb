/*
 * A protocol that is wrong, to show that the tests see what is wrong with it: the file of a dead holder
 * is "stale", so it is removed. Two contenders that have both read the dead PID remove one file after
 * the other, the second one the file that the first has just locked.
 */
#ifndef BROKEN_H
#define BROKEN_H

#include "test.h"

/* Whether the file is a dead holder's. Those who are misled go on in the order that does the harm: the
 * first one when there is a second, the others when it has the lock. */
static bool is_stale(void) {
  FILE *file = fopen("s.lock", "re");
  int pid = 0;
  if (file == NULL) return false;
  if (fscanf(file, "%d", &pid) != 1) pid = 0;
  fclose(file);
  if (pid == 0 || kill(pid, 0) == 0) return false;
  int order = atomic_fetch_add(&oracle->misled, 1);
  while (atomic_load(&oracle->misled) < 2) nap();
  while (order > 0 && atomic_load(&oracle->got) == 0) nap();
  return true;
}

static int broken_obtain(int operation, session_lock_handle *lock) {
  int fd = open("s.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd != -1);
  if (flock(fd, operation) == -1) {
    close(fd);
    return -EWOULDBLOCK;
  }
  CHECK(ftruncate(fd, 0) == 0);
  dprintf(fd, "%d\n", getpid());
  *lock = (session_lock_handle)fd;
  return 0;
}

static int broken_acquire(const char *dir, const char *session, session_lock_handle *lock) {
  (void)dir, (void)session;
  if (is_stale()) unlink("s.lock");
  return broken_obtain(LOCK_EX | LOCK_NB, lock);
}

static int broken_wait(const char *dir, const char *session, int64_t timeout_ms, int cancel_fd,
                       session_lock_handle *lock) {
  (void)dir, (void)session, (void)timeout_ms, (void)cancel_fd;
  while (atomic_load(&oracle->got) == 0) nap();
  return broken_obtain(LOCK_EX, lock);
}

static int broken_release(session_lock_handle lock) {
  return close((int)lock);
}

#endif
