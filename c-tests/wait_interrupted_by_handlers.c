/*
 * A signal handler that runs in the waiting thread ends the wait with -EINTR, so that Ctrl-C works;
 * only the wait without an end is restarted by the kernel, after a handler with SA_RESTART.
 */
#include "wait.h"

#include <stdatomic.h>

static atomic_int handled;
static pid_t main_thread;

static void handler(int signal)
{
	(void)signal;
	handled++;
}

static void install(int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

/* What the other thread does while the main thread waits. */
struct prodding {
	pthread_t target;
	long blocked_in;
	int times;
	pid_t then_kill;
};

static void *prod(void *argument)
{
	const struct prodding *plan = argument;
	for (int n = 0; n < plan->times; n++) {
		int before = handled;
		AWAIT(is_in(getpid(), main_thread, plan->blocked_in));
		CHECK(pthread_kill(plan->target, SIGUSR1) == 0);
		AWAIT(handled > before);
	}
	if (plan->then_kill != 0) {
		AWAIT(is_in(getpid(), main_thread, plan->blocked_in));
		kill_holder(plan->then_kill);
	}
	return NULL;
}

static int wait_prodded(int64_t timeout, int cancel_fd, struct prodding plan,
			session_lock_handle *lock)
{
	pthread_t prodder;
	plan.target = pthread_self();
	CHECK(pthread_create(&prodder, NULL, prod, &plan) == 0);
	int result = session_lock_wait(NULL, "s", timeout, cancel_fd, lock);
	CHECK(pthread_join(prodder, NULL) == 0);
	return result;
}

int main(void)
{
	const struct prodding polling = {.blocked_in = SYS_ppoll, .times = 1};
	const struct prodding locking = {.blocked_in = SYS_flock, .times = 1};
	session_lock_handle lock;
	int cancel[2];
	begin();
	CHECK(pipe2(cancel, O_CLOEXEC) == 0);
	main_thread = gettid();
	pid_t holder = start_holder();
	int threads_before = threads(), descriptors_before = descriptors();

	for (int round = 0; round < 20; round++) {
		install(round % 2 ? SA_RESTART : 0);
		CHECK(wait_prodded(60000, -1, polling, &lock) == -EINTR && lock == 0);
		CHECK(wait_prodded(-1, cancel[0], polling, &lock) == -EINTR && lock == 0);
		nothing_left(threads_before, descriptors_before);
	}
	install(0);
	CHECK(wait_prodded(-1, -1, locking, &lock) == -EINTR && lock == 0);
	nothing_left(threads_before, descriptors_before);

	install(SA_RESTART);
	struct prodding restarted = {.blocked_in = SYS_flock, .times = 5, .then_kill = holder};
	CHECK(wait_prodded(-1, -1, restarted, &lock) == 0);
	CHECK(!is_free());
	CHECK(session_lock_release(lock) == 0);
	CHECK(is_free());
	return 0;
}
