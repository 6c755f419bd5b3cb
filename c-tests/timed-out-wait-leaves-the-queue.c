/* When a wait has ended without the lock, nothing of it stands in the kernel's queue any more, where it
 * would be granted the lock later: on a processor that is busy with other things, too, so that a thread
 * that was told to end does not run for long. */
#include "test.h"

enum { BUSY = 8, WAITERS = 8 };

static void stay_on_one_processor(void) {
  cpu_set_t all, one;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  CPU_ZERO(&one);
  for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++) {
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
  }
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
}

static void wait_in_vain(int times) {
  for (int n = 0; n < times; n++) {
    session_lock_handle lock;
    CHECK_IS(session_lock_wait(".", "s", 5, -1, &lock), -ETIMEDOUT);
    CHECK_IS(blocked(getpid()), 0);
  }
  _exit(0);
}

int main(void) {
  pid_t busy[BUSY], waiting[WAITERS], holder = start_holder();
  int times = rounds_up_to(100000 / WAITERS, 125);
  stay_on_one_processor();
  for (int n = 0; n < BUSY; n++) {
    busy[n] = start();
    while (busy[n] == 0) continue;
  }
  for (int n = 0; n < WAITERS; n++) {
    waiting[n] = start();
    if (waiting[n] == 0) wait_in_vain(times);
  }
  for (int n = 0; n < WAITERS; n++) finish(waiting[n]);
  for (int n = 0; n < BUSY; n++) kill_and_reap(busy[n]);
  kill_and_reap(holder);
  CHECK(is_free("s.lock"));
}
