/* A process holds as many locks at once as it may have descriptors (100,000 in a long run, where the
 * limit allows it) and releases them in random order. What one of them costs does not grow
 * with their number; a child that is forked meanwhile holds none. */
#include "test.h"

#include <sys/resource.h>

enum { MOST = 100000, FEW = 50 };

static session_lock_handle locks[MOST];

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t next_random(void) {
  static uint64_t state = 88172645463325252;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

static void take(int count) {
  char session[16];
  for (int n = 0; n < count; n++) {
    snprintf(session, sizeof session, "%d", n);
    CHECK_OK(session_lock_acquire(".", session, &locks[n]));
  }
}

static void give_back(int count) {
  for (int n = count - 1; n > 0; n--) {
    int other = (int)(next_random() % (uint64_t)(n + 1));
    session_lock_handle lock = locks[n];
    locks[n] = locks[other];
    locks[other] = lock;
  }
  for (int n = 0; n < count; n++) {
    CHECK_OK(session_lock_check(locks[n]));
    CHECK_OK(session_lock_release(locks[n]));
  }
}

/* CPU seconds for one of `count` locks, while all of them are held. */
static double cost(int count) {
  double begin = cpu_seconds();
  take(count);
  give_back(count);
  return (cpu_seconds() - begin) / count;
}

int main(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  struct rlimit more = {.rlim_cur = MOST + 50, .rlim_max = MOST + 50};
  if (limit.rlim_max < more.rlim_max && setrlimit(RLIMIT_NOFILE, &more) == -1) {
    more = (struct rlimit){.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
  }
  CHECK(setrlimit(RLIMIT_NOFILE, &more) == 0);
  int most = (int)more.rlim_cur - 50, wanted = rounds_up_to(MOST, 1000);
  int count = wanted < most ? wanted : most;
  if (most < 10 * FEW) skip("the limit of descriptors is too low");

  cost(count); /* now the files are there, and whatever happens once has happened */
  double few = cost(FEW), many = cost(count);
  printf("%d locks at once: %.1f us each; %d: %.1f us\n", FEW, few * 1e6, count, many * 1e6);
  CHECK(count < 10 * FEW || many < 8 * few); /* were it quadratic, count / FEW times */

  take(count);
  int before = next_fd();
  pid_t child = start();
  if (child == 0) {
    CHECK(next_fd() < before - count / 2);
    for (int n = 0; n < count; n++) CHECK_IS(session_lock_release(locks[n]), -EPERM);
    _exit(0);
  }
  finish(child);
  give_back(count);
}
