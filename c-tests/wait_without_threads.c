/*
 * Where no thread can be started, the wait still obeys deadline, cancellation and signals, and gets the
 * lock. With REAL_THREADS it is the system that refuses (RLIMIT_NPROC, by root, who becomes
 * somebody else for it); else pthread_create itself.
 */
#include "wait.h"

enum { NOBODY_AT_ALL = 54321 };

static bool refuse;
static int refused;
static volatile sig_atomic_t handled;

static void handler(int signal)
{
	(void)signal;
	handled++;
}

/* The library's calls come here; the real one is not needed unless the system itself is to refuse. */
#ifndef REAL_THREADS
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *),
		   void *argument)
{
	(void)thread, (void)attributes, (void)entry, (void)argument;
	refused++;
	return refuse ? EAGAIN : ENOSYS;
}
#else
static void *nothing(void *argument)
{
	return argument;
}
#endif

int main(void)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	session_lock_handle lock;
	int cancel[2], next[2], status;
#ifdef REAL_THREADS
	if (geteuid() != 0)
		return 77;
	CHECK(chown(getenv("SESSION_LOCK_DIR"), NOBODY_AT_ALL, NOBODY_AT_ALL) == 0);
	CHECK(setgid(NOBODY_AT_ALL) == 0 && setuid(NOBODY_AT_ALL) == 0);
	/* So that /proc tells us about ourselves. */
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
#endif
	begin();
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(pipe2(cancel, O_CLOEXEC) == 0 && pipe2(next, O_CLOEXEC) == 0);
	pid_t waiter = getpid();
	pid_t holder = start_holder();
	pid_t assistant = fork_child();
	if (assistant == 0) {
		char step;
		close(next[1]);
		while (read(next[0], &step, 1) == 1) {
			AWAIT(is_in(waiter, waiter, SYS_ppoll));
			if (step == 'c')
				CHECK(write(cancel[1], "c", 1) == 1);
			else if (step == 's')
				CHECK(kill(waiter, SIGUSR1) == 0);
			else
				CHECK(kill(holder, SIGKILL) == 0);
		}
		_exit(0);
	}
	refuse = true;
#ifdef REAL_THREADS
	struct rlimit none = {0, 0};
	pthread_t thread;
	CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
	CHECK(pthread_create(&thread, NULL, nothing, NULL) == EAGAIN);
	refused++;
#endif
	int descriptors_before = descriptors();

	for (int64_t timeout = 0; timeout <= 100; timeout = timeout * 3 + 1) {
		int64_t start = now_us();
		CHECK(session_lock_wait(NULL, "s", timeout, -1, &lock) == -ETIMEDOUT && lock == 0);
		CHECK(now_us() - start >= timeout * 1000);
		CHECK(now_us() - start <= timeout * 1000 + 2000000);
	}
	for (int round = 0; round < 20; round++) {
		CHECK(write(next[1], "s", 1) == 1);
		CHECK(session_lock_wait(NULL, "s", 60000, -1, &lock) == -EINTR && lock == 0);
		CHECK(handled == round + 1);
	}
	CHECK(write(next[1], "c", 1) == 1);
	CHECK(session_lock_wait(NULL, "s", -1, cancel[0], &lock) == -ECANCELED && lock == 0);
	CHECK(descriptors() == descriptors_before);

	CHECK(write(next[1], "k", 1) == 1);
	CHECK(session_lock_wait(NULL, "s", 60000, -1, &lock) == 0);
	CHECK(!is_free());
	CHECK(session_lock_release(lock) == 0);
	CHECK(is_free());
	CHECK(refused > 0 && threads() == 1);
	close(next[1]);
	CHECK(waitpid(holder, NULL, 0) == holder);
	CHECK(waitpid(assistant, &status, 0) == assistant && status == 0);
	return 0;
}
