/* A hundred threads of one process wait for one session while two others fork all the time: each gets the
 * lock or times out, as its deadline says, and no child has anything of it. */
#include "test.h"

enum { NUMBERS = 4096, MOST = 1000 };

static bool open_before[NUMBERS];
static struct stat lock_file;
static atomic_int timed_out, got, inside, forks;
static atomic_bool over;

/* Every third will not get it: the lock is not given up before they have timed out. */
static bool is_hopeless(intptr_t number) {
  return number % 3 == 0;
}

static void *wait_for_it(void *argument) {
  intptr_t number = (intptr_t)argument;
  int64_t timeout_ms = is_hopeless(number) ? 1 + number : LIMIT_S * 1000;
  session_lock_handle lock;
  int64_t begin = now_us();
  int error = session_lock_wait(".", "s", timeout_ms, -1, &lock);
  if (is_hopeless(number)) {
    CHECK_IS(error, -ETIMEDOUT);
    CHECK(lock == 0);
    CHECK(now_us() - begin >= timeout_ms * 1000);
    atomic_fetch_add(&timed_out, 1);
  } else {
    CHECK_OK(error);
    CHECK(atomic_fetch_add(&inside, 1) == 0);
    CHECK_OK(session_lock_check(lock));
    CHECK(atomic_fetch_sub(&inside, 1) == 1);
    CHECK_OK(session_lock_release(lock));
    atomic_fetch_add(&got, 1);
  }
  return NULL;
}

/* The lock file or an eventfd. (glibc itself opens a file in /sys now and then.) */
static bool is_of_the_library(int number) {
  struct stat file;
  if (fstat(number, &file) != 0) return false;
  bool anonymous = (file.st_mode & S_IFMT) == 0;
  return anonymous || (file.st_dev == lock_file.st_dev && file.st_ino == lock_file.st_ino);
}

static void *fork_all_the_time(void *unused) {
  while (!atomic_load(&over)) {
    pid_t pid = fork();
    CHECK(pid != -1);
    if (pid == 0) {
      for (int number = 0; number < NUMBERS; number++) {
        if (!open_before[number] && is_of_the_library(number)) _exit(1);
      }
      _exit(0);
    }
    finish(pid);
    atomic_fetch_add(&forks, 1);
  }
  return unused;
}

int main(void) {
  int count = rounds_up_to(MOST, 100), hopeless = (count + 2) / 3;
  static pthread_t waiting[MOST], forking[2];
  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_release(lock));
  CHECK(stat("s.lock", &lock_file) == 0);
  for (int number = 0; number < NUMBERS; number++) open_before[number] = is_open(number);
  struct left before = count_left();

  CHECK_OK(session_lock_acquire(".", "s", &lock));
  for (int n = 0; n < 2; n++) CHECK_OK(pthread_create(&forking[n], NULL, fork_all_the_time, NULL));
  for (intptr_t n = 0; n < count; n++) {
    CHECK_OK(pthread_create(&waiting[n], NULL, wait_for_it, (void *)n));
  }
  AWAIT(atomic_load(&timed_out) == hopeless && atomic_load(&forks) >= 10);
  AWAIT(waiters() == count - hopeless);
  int forks_before = atomic_load(&forks);
  CHECK_OK(session_lock_release(lock));
  for (int n = 0; n < count; n++) CHECK_OK(pthread_join(waiting[n], NULL));
  int during = atomic_load(&forks) - forks_before;
  atomic_store(&over, true);
  for (int n = 0; n < 2; n++) CHECK_OK(pthread_join(forking[n], NULL));
  printf("%d got it, %d timed out; %d forks, %d while it went round\n", got, timed_out, forks, during);
  CHECK(got + timed_out == count);
  CHECK(is_free("s.lock"));
  check_left(before);
}
