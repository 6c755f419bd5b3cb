/* session_lock_token gives each holder a larger number: also after a death, and when the file was deleted. */

#include "test.h"

static uint64_t token_of_next_holder(void) {
  session_lock_handle lock;
  uint64_t token, again;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_token(lock, &token));
  CHECK_OK(session_lock_token(lock, &again));
  CHECK(token == again && token > 0);
  CHECK_OK(session_lock_release(lock));
  CHECK_IS(session_lock_token(lock, &again), -EBADF);
  CHECK(again == 0);
  return token;
}

int main(void) {
  uint64_t last = 0, next;
  for (int n = 0; n < 100; n++, last = next) {
    next = token_of_next_holder();
    CHECK(next > last);
  }
  pid_t child = fork();
  if (child == 0) {
    session_lock_handle lock;
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    CHECK_OK(session_lock_token(lock, &next));
    _exit(next > last ? 0 : 1); /* without a release */
  }
  finish(child);
  CHECK((next = token_of_next_holder()) > last + 1);
  last = next;
  CHECK_OK(unlink("s.lock"));
  CHECK((next = token_of_next_holder()) > last);

  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_IS(session_lock_token(lock, NULL), -EINVAL);
  child = fork();
  if (child == 0) {
    CHECK_IS(session_lock_token(lock, &next), -EPERM);
    CHECK(next == 0);
    _exit(0);
  }
  finish(child);
  CHECK_OK(session_lock_release(lock));

  /* A file that may only be read has no label, so there is no token. */
  if (geteuid() != 0) {
    CHECK_OK(chmod("s.lock", 0400));
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    CHECK_IS(session_lock_token(lock, &next), -ENODATA);
  }
}
