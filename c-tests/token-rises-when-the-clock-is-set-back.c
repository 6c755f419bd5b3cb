/* session_lock_token gives each holder a larger number also when the clock was set back: the last one is in the
   label, while the lock is held and while it is free, and in a torn label, too. */

#include "test.h"

static time_t set_back;

/* The library's clock. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec -= set_back;
  return result;
}

#if __SIZEOF_LONG__ == 4 && defined SYS_clock_gettime64
/* The one with 64-bit times, on a processor with 32 bits. */
struct time64 {
  int64_t tv_sec, tv_nsec;
};

int __clock_gettime64(clockid_t clock, struct time64 *now);

int __clock_gettime64(clockid_t clock, struct time64 *now) {
  int result = (int)syscall(SYS_clock_gettime64, clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec -= set_back;
  return result;
}
#endif

static uint64_t token_of_next_holder(void) {
  session_lock_handle lock;
  uint64_t token;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_token(lock, &token));
  CHECK_OK(session_lock_release(lock));
  return token;
}

int main(void) {
  uint64_t last = token_of_next_holder();
  set_back = 10000000;
  CHECK(token_of_next_holder() == last + 1);

  /* A holder that died left its label. */
  pid_t child = fork();
  if (child == 0) {
    session_lock_handle lock;
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    _exit(0);
  }
  finish(child);
  CHECK(token_of_next_holder() == last + 3);

  /* Somebody has written over its beginning. */
  int file = open("s.lock", O_WRONLY | O_CLOEXEC);
  CHECK(pwrite(file, "x", 1, 0) == 1);
  CHECK_OK(close(file));
  CHECK(token_of_next_holder() == last + 4);

  /* Without the file there is only the clock. */
  CHECK_OK(unlink("s.lock"));
  CHECK(token_of_next_holder() < last);
  set_back = 0;
  CHECK(token_of_next_holder() > last + 4);
}
