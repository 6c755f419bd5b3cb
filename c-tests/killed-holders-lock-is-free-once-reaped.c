/* Whoever has reaped a killed holder gets its lock at the first try, and the kernel names nobody. */
#include "test.h"

int main(void) {
  for (int round = 0; round < rounds(20); round++) {
    struct hint held = new_hint();
    pid_t holder = start();
    if (holder == 0) {
      session_lock_handle lock;
      CHECK_OK(session_lock_acquire(".", "s", &lock));
      tell(held);
      for (;;) pause();
    }
    hear(held);
    session_lock_handle lock;
    CHECK_IS(session_lock_acquire(".", "s", &lock), -EWOULDBLOCK);
    kill_and_reap(holder);
    struct session_lock_holder_info info;
    CHECK_OK(session_lock_holder(".", "s", &info, sizeof info));
    CHECK(info.state != SESSION_LOCK_HELD);
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    CHECK_OK(session_lock_release(lock));
    end_hint(held);
  }
}
