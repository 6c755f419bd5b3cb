/* A released handle is -EBADF for ever, also while the same session is held again under the same
 * descriptor number; so are 0, -1 and numbers that were never given. */
#include "test.h"

enum { MOST = 200000 };

static void check_unknown(session_lock_handle lock) {
  CHECK_IS(session_lock_check(lock), -EBADF);
  CHECK_IS(session_lock_release(lock), -EBADF);
}

int main(void) {
  static session_lock_handle given[MOST];
  int count = rounds_up_to(MOST, 2000);
  for (int round = 0; round < count; round++) {
    session_lock_handle lock;
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    CHECK(lock != 0);
    given[round] = lock;
    for (int back = 1; back <= 3 && back <= round; back++) {
      CHECK(given[round - back] != lock);
      check_unknown(given[round - back]);
    }
    check_unknown(0);
    check_unknown(UINT64_MAX);
    check_unknown(lock + 1);
    check_unknown(lock ^ (UINT64_C(1) << (round % 64)));
    CHECK_OK(session_lock_check(lock));
    CHECK_OK(session_lock_release(lock));
    check_unknown(lock);
  }
  for (int one = 0; one < count; one++) {
    check_unknown(given[one]);
    if (one > 0) CHECK(given[one] > given[one - 1]);
  }
  /* One PRNG for all machines. */
  uint64_t random = 88172645463325252;
  for (int round = 0; round < count; round++) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    check_unknown(random);
  }
}
