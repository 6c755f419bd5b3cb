/*
 * Where the thread that is blocked in flock cannot be stopped, the wait ends in time all the same, and
 * what the thread gets later is nobody's. Arguments: "fuse" on a filesystem whose flock cannot be
 * interrupted; else the signal that would stop the thread cannot be sent (RLIMIT_SIGPENDING).
 */
#include "wait.h"

/* Generous, for a loaded machine: what is meant is that it does not take until the holder ends. */
enum { LATE_US = 2000000 };

/* How many threads of this process are blocked in flock. */
static int blocked(void)
{
	DIR *tasks = opendir("/proc/self/task");
	int count = 0;
	CHECK(tasks != NULL);
	for (struct dirent *task; (task = readdir(tasks)) != NULL;)
		count += is_in(getpid(), atoi(task->d_name), SYS_flock);
	closedir(tasks);
	return count;
}

int main(int count, char **arguments)
{
	bool fuse = count > 1 && strcmp(arguments[1], "fuse") == 0;
	session_lock_handle lock;
	int event = eventfd(0, EFD_CLOEXEC);
	begin();
	pid_t holder = start_holder();
	int threads_before = threads(), descriptors_before = descriptors();
	if (!fuse) {
		struct rlimit none = {0, 0};
		CHECK(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
	}
	/* On a loaded machine a deadline can be over before the thread is blocked, or is there at all. */
	for (int round = 0; blocked() < 5; round++) {
		CHECK(round < 100);
		int64_t start = now_us();
		CHECK(session_lock_wait(NULL, "s", 50, -1, &lock) == -ETIMEDOUT && lock == 0);
		int64_t took = now_us() - start;
		printf("50 ms took %jd us\n", (intmax_t)took);
		CHECK(took >= 50000 && took < 50000 + LATE_US);
	}
	CHECK(eventfd_write(event, 1) == 0);
	CHECK(session_lock_wait(NULL, "s", -1, event, &lock) == -ECANCELED && lock == 0);
	/* Else the claim would be shown for nothing. */
	CHECK(blocked() >= 5);

	/* A process that ends now, with such a thread. */
	int64_t start = now_us();
	pid_t child = fork_child();
	if (child == 0) {
		CHECK(session_lock_wait(NULL, "s", 20, -1, &lock) == -ETIMEDOUT);
		_exit(0);
	}
	siginfo_t info = {0};
	while (now_us() - start < 500000 && info.si_pid == 0) {
		CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0);
		sleep_until(now_us() + 1000);
	}
	if (info.si_pid == child)
		printf("a process ended with such a thread after %jd us\n",
		       (intmax_t)(now_us() - start));
	else
		printf("a process does not end before such a thread does\n");

	/* The threads get the lock one after the other; it goes with each of them. */
	kill_holder(holder);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	nothing_left(threads_before, descriptors_before);
	AWAIT(is_free());
	CHECK(session_lock_wait(NULL, "s", 60000, -1, &lock) == 0);
	CHECK(session_lock_check(lock) == 0);
	CHECK(!is_free());
	CHECK(session_lock_release(lock) == 0);
	CHECK(is_free());
	return 0;
}
