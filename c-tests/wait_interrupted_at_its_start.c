/*
 * A signal that comes while the helper thread is being started is not lost: the wait, which has not
 * begun yet, ends with -EINTR all the same. (A handler that ran before it would leave the caller to
 * sleep until its deadline.)
 */
#include "wait.h"

#include <dlfcn.h>

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static volatile sig_atomic_t handled;

static void handler(int signal)
{
	(void)signal;
	handled++;
}

/* The library's calls come here. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *),
		   void *argument)
{
	create *real;
	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	raise(SIGUSR1);
	return real(thread, attributes, entry, argument);
}

int main(void)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	session_lock_handle lock;
	begin();
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	pid_t holder = start_holder();
	CHECK(session_lock_wait(NULL, "s", 5000, -1, &lock) == -EINTR);
	CHECK(handled == 1);
	kill_holder(holder);
	CHECK(is_free());
	return 0;
}
