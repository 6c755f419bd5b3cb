/* A wait costs at most 8 voluntary context switches and 5 ms of processor time in the whole process,
 * however long it is. On a busy machine its thread may be slow to end, which is waited for: then another
 * wait shows it. */
#include "test.h"

static int64_t cpu_us(const struct rusage *usage) {
  return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * INT64_C(1000000) +
         usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;
}

int main(void) {
  int64_t timeout_ms = rounds_up_to(10, 1) * 1000;
  int cancel = eventfd(0, EFD_CLOEXEC);
  pid_t holder = start_holder();
  for (int with_cancel = 0; with_cancel < 2; with_cancel++) {
    long switches = 0;
    int64_t cpu = 0;
    for (int attempt = 0; attempt == 0 || (attempt < 10 && (switches > 8 || cpu > 5000)); attempt++) {
      struct rusage before, after;
      session_lock_handle lock;
      CHECK(getrusage(RUSAGE_SELF, &before) == 0);
      int error = session_lock_wait(".", "s", timeout_ms, with_cancel ? cancel : -1, &lock);
      CHECK(getrusage(RUSAGE_SELF, &after) == 0);
      CHECK_IS(error, -ETIMEDOUT);
      switches = after.ru_nvcsw - before.ru_nvcsw;
      cpu = cpu_us(&after) - cpu_us(&before);
      printf("%ld voluntary context switches, %jd us of processor time\n", switches, (intmax_t)cpu);
    }
    CHECK(switches <= 8);
    CHECK(cpu <= 5000);
  }
  kill_and_reap(holder);
  close(cancel);
}
