/*
 * A lock that is granted when the caller has already given up, but not yet stopped its thread, is not
 * lost: the call ends with it.
 */
#include "wait.h"

#include <dlfcn.h>

static pid_t holder;
static int cancelled;

/* The library's calls come here. */
int pthread_cancel(pthread_t thread)
{
	int (*real)(pthread_t);
	*(void **)&real = dlsym(RTLD_NEXT, "pthread_cancel");
	cancelled++;
	kill_holder(holder);
	AWAIT(waiters() == 0 && !is_free());
	/* A loaded machine may take longer than the caller's patience to end it. */
	AWAIT(threads() == 1);
	return real(thread);
}

int main(void)
{
	session_lock_handle lock;
	begin();
	for (int round = 1; round <= 20; round++) {
		holder = start_holder();
		int threads_before = threads(), descriptors_before = descriptors();
		int error;
		/* On a loaded machine the time can be over before the thread is started. */
		do
			error = session_lock_wait(NULL, "s", 2, -1, &lock);
		while (error == -ETIMEDOUT && cancelled < round);
		CHECK(error == 0);
		CHECK(cancelled == round);
		CHECK(session_lock_check(lock) == 0);
		CHECK(!is_free());
		CHECK(session_lock_release(lock) == 0);
		CHECK(is_free());
		nothing_left(threads_before, descriptors_before);
	}
	return 0;
}
