/* However a cancellation or a deadline races with the holder's death: the call ends with a lock that is
 * held or with one that is not, and leaves nothing behind. */
#include "test.h"

#include <semaphore.h>

/* What happens in a race, and when. */
static struct {
  pid_t holder;
  int64_t kill_at, cancel_at;
  int cancel; /* an eventfd, or -1 */
} race;

static sem_t begun, over;

static void cancel(void) {
  if (race.cancel == -1) return;
  sleep_until_us(race.cancel_at);
  CHECK(eventfd_write(race.cancel, 1) == 0);
}

static void *kill_and_cancel(void *unused) {
  for (;;) {
    while (sem_wait(&begun) == -1) continue;
    if (race.holder == 0) return unused;
    bool kill_first = race.kill_at < race.cancel_at;
    if (!kill_first) cancel();
    sleep_until_us(race.kill_at);
    CHECK(kill(race.holder, SIGKILL) == 0);
    if (kill_first) cancel();
    CHECK(waitpid(race.holder, NULL, 0) == race.holder);
    sem_post(&over);
  }
  return unused;
}

static void races(const char *name, int count, bool cancelled) {
  int won = 0;
  /* How long before the deadline or the cancellation the holder is killed, such that half of the races
   * are won: found and followed while they go on, whatever the machine does. */
  int64_t lead = 300;
  int event = cancelled ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
  struct left before = count_left();

  for (int round = 0; round < count; round++) {
    int timeout_ms = cancelled ? (round % 2 ? -1 : LIMIT_S * 1000) : 1 + round % 2;
    session_lock_handle lock = 1;
    race.holder = start_holder();
    race.cancel = event;
    int64_t end = now_us() + (cancelled ? 1000 : timeout_ms * 1000);
    race.cancel_at = end;
    race.kill_at = end - lead + round % 7 * 20 - 60;
    sem_post(&begun);
    int error = session_lock_wait(".", "s", timeout_ms, event, &lock);
    /* The holder has been reaped: the lock is ours, or nobody's. */
    while (sem_wait(&over) == -1) continue;
    if (error == 0) {
      won++;
      lead -= 10;
      CHECK_OK(session_lock_check(lock));
      CHECK(!is_free("s.lock"));
      CHECK_OK(session_lock_release(lock));
    } else {
      lead += 10;
      CHECK_IS(error, cancelled ? -ECANCELED : -ETIMEDOUT);
      CHECK(lock == 0);
      CHECK(now_us() >= end || cancelled);
    }
    /* At once, but where a busy machine has made the caller abandon its thread. */
    AWAIT(is_free("s.lock"));
    if (cancelled) {
      eventfd_t drained;
      CHECK(eventfd_read(event, &drained) == 0);
    }
    check_left(before);
  }
  printf("%s: %d of %d got the lock\n", name, won, count);
  /* Else these were no races. */
  CHECK(count < 100 || (won > count / 20 && won < count - count / 20));
  if (event != -1) close(event);
}

int main(void) {
  int count = rounds_up_to(10000, 500);
  pthread_t killer;
  CHECK(sem_init(&begun, 0, 0) == 0 && sem_init(&over, 0, 0) == 0);
  CHECK_OK(pthread_create(&killer, NULL, kill_and_cancel, NULL));
  races("time-outs", count, false);
  races("cancellations", count, true);
  race.holder = 0;
  sem_post(&begun);
  CHECK_OK(pthread_join(killer, NULL));
}
