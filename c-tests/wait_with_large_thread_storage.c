/*
 * A host program with much thread-local storage can wait: the storage is taken from the stack of each
 * thread, the one that a wait starts among them.
 */
#include "wait.h"

#ifndef STORAGE
#define STORAGE (56 * 1024)
#endif

static _Thread_local char storage[STORAGE];

int main(void)
{
	session_lock_handle lock;
	begin();
	memset(storage, 1, sizeof storage);
	pid_t holder = start_holder();
	int threads_before = threads();
	for (int n = 0; n < 5; n++)
		CHECK(session_lock_wait(NULL, "s", 2, -1, &lock) == -ETIMEDOUT);
	AWAIT(threads() == threads_before);
	kill_holder(holder);
	CHECK(storage[sizeof storage - 1] == 1);
	return 0;
}
