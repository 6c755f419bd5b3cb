/*
 * Threads with the smallest stacks can wait: 16 KiB is the least that the system allows.
 */
#include "wait.h"

#include <limits.h>

static pid_t holder;

static void *wait_for_it(void *argument)
{
	session_lock_handle lock;
	CHECK(session_lock_wait(NULL, "s", 5, -1, &lock) == -ETIMEDOUT);
	kill_holder(holder);
	CHECK(session_lock_wait(NULL, "s", 60000, -1, &lock) == 0);
	CHECK(session_lock_release(lock) == 0);
	return argument;
}

int main(void)
{
	size_t least = (size_t)sysconf(_SC_THREAD_STACK_MIN);
	begin();
	for (size_t size = least; size <= 128 * 1024; size *= 2) {
		pthread_attr_t attributes;
		pthread_t thread;
		holder = start_holder();
		CHECK(pthread_attr_init(&attributes) == 0);
		CHECK(pthread_attr_setstacksize(&attributes, size) == 0);
		CHECK(pthread_create(&thread, &attributes, wait_for_it, NULL) == 0);
		CHECK(pthread_join(thread, NULL) == 0);
		CHECK(pthread_attr_destroy(&attributes) == 0);
	}
	return 0;
}
