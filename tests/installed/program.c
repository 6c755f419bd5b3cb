/* A program in the common part of C and C++, as somebody writes it who has only the installed tree. */

#include <errno.h>
#include <session_lock.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
#define ASSERT(condition) static_assert(condition, #condition)
#else
#define ASSERT(condition) _Static_assert(condition, #condition)
#endif

/* The layout is a promise: it changes only by growing at its end. */
ASSERT(sizeof(session_lock_handle) == 8);
ASSERT(offsetof(struct session_lock_holder_info, state) == 0);
ASSERT(offsetof(struct session_lock_holder_info, pid) == 4);
ASSERT(offsetof(struct session_lock_holder_info, orphaned) == 8);
ASSERT(offsetof(struct session_lock_holder_info, confirmed) == 12);
ASSERT(offsetof(struct session_lock_holder_info, acquired_at_ms) == 16);
ASSERT(offsetof(struct session_lock_holder_info, command) == 24);
ASSERT(offsetof(struct session_lock_holder_info, host) == 88);
ASSERT(offsetof(struct session_lock_holder_info, waiters) == 152);
ASSERT(offsetof(struct session_lock_holder_info, suspended) == 156);
ASSERT(sizeof(struct session_lock_holder_info) == 160);
ASSERT(SESSION_LOCK_FREE == 0 && SESSION_LOCK_HELD == 1 && SESSION_LOCK_UNKNOWN == 2);

#define CHECK(condition)                                     \
  do {                                                       \
    if (!(condition)) {                                      \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      return 1;                                              \
    }                                                        \
  } while (0)

int main(void) {
  session_lock_handle lock, second;
  struct session_lock_holder_info info;
  CHECK(session_lock_acquire(NULL, "program", &lock) == 0);
  CHECK(session_lock_acquire(NULL, "program", &second) == -EWOULDBLOCK);
  /* The helper thread, too, must work in a program that is linked statically. */
  CHECK(session_lock_wait(NULL, "program", 20, -1, &second) == -ETIMEDOUT);
  CHECK(session_lock_holder(NULL, "program", &info, sizeof info) == 0);
  CHECK(info.state == SESSION_LOCK_HELD && info.pid == getpid());
  CHECK(session_lock_check(lock) == 0);
  CHECK(session_lock_release(lock) == 0);
  CHECK(session_lock_release(lock) == -EBADF);
  puts(session_lock_version());
  return 0;
}
