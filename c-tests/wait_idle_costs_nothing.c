/*
 * A wait costs at most 8 voluntary context switches and 5 ms of CPU in the whole process, however long
 * it is. Argument: its length in seconds.
 */
#include "wait.h"

static int64_t cpu_us(const struct rusage *usage)
{
	return (int64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000 +
	       usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;
}

int main(int count, char **arguments)
{
	int64_t timeout = (count > 1 ? atoi(arguments[1]) : 3) * 1000;
	int cancel[2];
	struct rusage before, after;
	begin();
	CHECK(pipe2(cancel, O_CLOEXEC) == 0);
	pid_t holder = start_holder();
	for (int with_cancel = 0; with_cancel < 2; with_cancel++) {
		session_lock_handle lock;
		CHECK(getrusage(RUSAGE_SELF, &before) == 0);
		int result = session_lock_wait(NULL, "s", timeout, with_cancel ? cancel[0] : -1, &lock);
		CHECK(getrusage(RUSAGE_SELF, &after) == 0);
		CHECK(result == -ETIMEDOUT);
		long switches = after.ru_nvcsw - before.ru_nvcsw;
		int64_t cpu = cpu_us(&after) - cpu_us(&before);
		printf("%ld voluntary context switches, %jd us of CPU\n", switches, (intmax_t)cpu);
		CHECK(switches <= 8);
		CHECK(cpu <= 5000);
	}
	kill_holder(holder);
	return 0;
}
