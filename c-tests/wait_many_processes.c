/*
 * A thousand processes that wait for one session with a deadline all get it, one after the other.
 * Argument: how many.
 */
#include "wait.h"

#include <stdatomic.h>
#include <sys/mman.h>

int main(int count, char **arguments)
{
	int number = count > 1 ? atoi(arguments[1]) : 1000;
	begin();
	atomic_int *inside =
		mmap(NULL, sizeof *inside, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(inside != MAP_FAILED);
	pid_t holder = start_holder();
	int64_t start = now_us();
	for (int n = 0; n < number; n++) {
		pid_t pid = fork_child();
		if (pid == 0) {
			session_lock_handle lock;
			CHECK(session_lock_wait(NULL, "s", 120000, -1, &lock) == 0);
			CHECK(atomic_fetch_add(inside, 1) == 0);
			CHECK(session_lock_check(lock) == 0);
			CHECK(atomic_fetch_sub(inside, 1) == 1);
			/* Every other one dies with it. */
			CHECK(n % 2 == 0 || session_lock_release(lock) == 0);
			_exit(0);
		}
	}
	AWAIT(waiters() == number);
	int64_t blocked = now_us();
	kill_holder(holder);
	for (int n = 0; n < number; n++) {
		int status;
		CHECK(wait(&status) > 0);
		CHECK(status == 0);
	}
	printf("%d blocked after %jd ms, all done %jd ms later\n", number,
	       (intmax_t)(blocked - start) / 1000, (intmax_t)(now_us() - blocked) / 1000);
	CHECK(is_free());
	return 0;
}
