/* The thread that a wait has started gets almost no processor time: it is SCHED_IDLE on a processor that is
 * busy with other things. When the wait has ended without the lock, the thread does not stand in the
 * kernel's queue any more, where it would be granted the lock later. */
#include "test.h"

enum { BUSY = 2 };

static cpu_set_t one;
static int cancel;

static void *starve_the_thread_and_cancel(void *unused) {
  int count;
  await_blocked(getpid());
  pid_t thread = thread_in(SYS_flock, &count);
  CHECK_IS(count, 1);
  CHECK(sched_setaffinity(thread, sizeof one, &one) == 0);
  /* musl's function of that name says ENOSYS. */
  CHECK(syscall(SYS_sched_setscheduler, thread, SCHED_IDLE, &(struct sched_param){0}) == 0);
  CHECK(eventfd_write(cancel, 1) == 0);
  return unused;
}

int main(void) {
  cpu_set_t all;
  pid_t busy[BUSY], holder = start_holder();
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  CPU_ZERO(&one);
  for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++) {
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
  }
  for (int n = 0; n < BUSY; n++) {
    busy[n] = start();
    if (busy[n] == 0) {
      CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
      for (;;) continue;
    }
  }
  cancel = eventfd(0, EFD_CLOEXEC);
  for (int round = 0; round < rounds(5); round++) {
    session_lock_handle lock;
    eventfd_t value;
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, starve_the_thread_and_cancel, NULL));
    CHECK_IS(session_lock_wait(".", "s", -1, cancel, &lock), -ECANCELED);
    CHECK_IS(blocked(getpid()), 0);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK(eventfd_read(cancel, &value) == 0);
  }
  for (int n = 0; n < BUSY; n++) kill_and_reap(busy[n]);
  kill_and_reap(holder);
  close(cancel);
  CHECK(is_free("s.lock"));
}
