/* Several processes take one lock by every way there is, as fast as they can. While one holds it, none
 * of the others does; and no update of a number that only the lock protects is lost. */
#include "test.h"

enum { PROCESSES = 4 };

struct oracle {
  atomic_int inside;
  volatile int unprotected;
};

static int obtain(int way, session_lock_handle *lock) {
  switch (way % 3) {
  case 0: return session_lock_acquire(".", "s", lock);
  case 1: return session_lock_wait(".", "s", -1, -1, lock);
  default: return session_lock_wait(".", "s", 1 + way % 7, -1, lock);
  }
}

int main(void) {
  struct oracle *oracle = shared(sizeof *oracle);
  pid_t pids[PROCESSES];
  int each = rounds(200);
  for (int process = 0; process < PROCESSES; process++) {
    pids[process] = start();
    if (pids[process] != 0) continue;
    for (int held = 0, way = process; held < each; way++) {
      session_lock_handle lock;
      int error = obtain(way, &lock);
      if (error == -EWOULDBLOCK || error == -ETIMEDOUT) {
        CHECK(lock == 0);
        sched_yield();
        continue;
      }
      CHECK_OK(error);
      CHECK(atomic_fetch_add(&oracle->inside, 1) == 0);
      int before = oracle->unprotected;
      if (held % 8 == 0) sched_yield();
      oracle->unprotected = before + 1;
      CHECK_OK(session_lock_check(lock));
      CHECK(atomic_fetch_sub(&oracle->inside, 1) == 1);
      CHECK_OK(session_lock_release(lock));
      held++;
    }
    _exit(0);
  }
  for (int process = 0; process < PROCESSES; process++) finish(pids[process]);
  CHECK_IS(oracle->unprotected, PROCESSES * each);
  CHECK(is_free("s.lock"));
}
