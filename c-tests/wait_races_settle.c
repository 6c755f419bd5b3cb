/*
 * However a cancellation or a deadline races with the holder's death: the call ends with a lock that
 * is held or with one that is not, and leaves nothing behind. Argument: how many races of each kind.
 */
#include "wait.h"

#include <semaphore.h>

/* What happens in a race, and when. */
static struct {
	pid_t holder;
	int64_t kill_at;
	int64_t cancel_at;
	int cancel; /* an eventfd, or -1 */
} race;

static sem_t begun, over;

static void cancel(void)
{
	if (race.cancel != -1) {
		sleep_until(race.cancel_at);
		CHECK(eventfd_write(race.cancel, 1) == 0);
	}
}

static void *kill_and_cancel(void *argument)
{
	for (;;) {
		sem_wait(&begun);
		bool kill_first = race.kill_at < race.cancel_at;
		if (!kill_first)
			cancel();
		sleep_until(race.kill_at);
		CHECK(kill(race.holder, SIGKILL) == 0);
		if (kill_first)
			cancel();
		CHECK(waitpid(race.holder, NULL, 0) == race.holder);
		sem_post(&over);
	}
	return argument;
}

static void races(const char *name, int rounds, bool cancelled)
{
	int won = 0;
	/* How long before the deadline or the cancellation the holder is killed, such that half of
	 * the races are won: found and followed while they go on, whatever the machine does. */
	int64_t lead = 300;
	int event = cancelled ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	int threads_before = threads(), descriptors_before = descriptors();

	for (int round = 0; round < rounds; round++) {
		int timeout = cancelled ? (round % 2 ? -1 : 60000) : 1 + round % 2;
		session_lock_handle lock = 1;
		race.holder = start_holder();
		race.cancel = event;
		int64_t end = now_us() + (cancelled ? 1000 : timeout * 1000);
		race.cancel_at = end;
		race.kill_at = end - lead + round % 7 * 20 - 60;
		sem_post(&begun);
		int result = session_lock_wait(NULL, "s", timeout, event, &lock);
		/* The holder has been reaped: the lock is ours, or nobody's. */
		sem_wait(&over);
		if (result == 0) {
			won++;
			lead -= 10;
			CHECK(session_lock_check(lock) == 0);
			CHECK(!is_free());
			CHECK(session_lock_release(lock) == 0);
		} else {
			lead += 10;
			CHECK(result == (cancelled ? -ECANCELED : -ETIMEDOUT));
			CHECK(lock == 0);
			CHECK(now_us() >= end || cancelled);
		}
		/* At once, but where a loaded machine has made the caller abandon its thread. */
		AWAIT(is_free());
		if (cancelled) {
			eventfd_t drained;
			CHECK(eventfd_read(event, &drained) == 0);
		}
		nothing_left(threads_before, descriptors_before);
	}
	printf("%s: %d of %d got the lock\n", name, won, rounds);
	/* Else these were no races. */
	CHECK(rounds < 100 || (won > rounds / 20 && won < rounds - rounds / 20));
	if (event != -1)
		close(event);
}

int main(int count, char **arguments)
{
	int rounds = count > 1 ? atoi(arguments[1]) : 1000;
	pthread_t killer;
	begin();
	CHECK(sem_init(&begun, 0, 0) == 0 && sem_init(&over, 0, 0) == 0);
	CHECK(pthread_create(&killer, NULL, kill_and_cancel, NULL) == 0);
	races("time-outs", rounds, false);
	races("cancellations", rounds, true);
	return 0;
}
