/* Thousands of waits for a held lock leave neither memory nor mappings behind. */
#include "test.h"

#include <malloc.h>

/* What has been allocated on the heap; musl cannot say it. */
static int64_t heap_in_use(void) {
#ifdef __GLIBC__
  return (int64_t)mallinfo2().uordblks;
#else
  return 0;
#endif
}

enum { THREADS = 8 };

static void *wait_often(void *times) {
  for (intptr_t n = (intptr_t)times; n > 0; n--) {
    session_lock_handle lock;
    CHECK_IS(session_lock_wait(".", "s", 1, -1, &lock), -ETIMEDOUT);
  }
  return NULL;
}

static void wait_in_many_threads(int times) {
  pthread_t threads[THREADS];
  void *share = (void *)(intptr_t)(times / THREADS);
  for (int n = 0; n < THREADS; n++) CHECK_OK(pthread_create(&threads[n], NULL, wait_often, share));
  for (int n = 0; n < THREADS; n++) CHECK_OK(pthread_join(threads[n], NULL));
}

/* Pages of the process: mapped, and in memory. */
struct pages {
  long mapped, resident;
};

static struct pages count_pages(void) {
  struct pages pages;
  FILE *statm = fopen("/proc/self/statm", "re");
  CHECK(statm != NULL);
  CHECK(fscanf(statm, "%ld %ld", &pages.mapped, &pages.resident) == 2);
  fclose(statm);
  return pages;
}

int main(void) {
  int waits = rounds_up_to(100000, 10000);
#ifdef __GLIBC__
  /* An arena more or less, 64 MiB of addresses, would hide what we look for. */
  CHECK(mallopt(M_ARENA_MAX, 1) == 1);
#endif
  pid_t holder = start_holder();
  int threads = count_threads();
  wait_in_many_threads(waits / 10);
  AWAIT(count_threads() == threads);
  struct left left = count_left();
  struct pages before = count_pages();
  int64_t heap_before = heap_in_use();
  wait_in_many_threads(waits);
  int64_t heap = heap_in_use();
  struct pages after = count_pages();
  printf("%d waits: heap %+jd bytes, %+ld pages mapped, %+ld resident\n", waits,
         (intmax_t)(heap - heap_before), after.mapped - before.mapped,
         after.resident - before.resident);
  /* A byte for each wait would be more than that; so would a page for every hundredth. */
  CHECK(heap < heap_before + waits);
  CHECK(after.resident < before.resident + waits / 100);
  /* glibc keeps some stacks of ended threads; one for every hundredth wait would be none of these. */
  CHECK(after.mapped < before.mapped + waits / 100 * 17);
  check_left(left);
  kill_and_reap(holder);
}
