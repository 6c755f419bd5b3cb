/*
 * Ten thousand waits for a held lock leave neither memory nor mappings behind. Argument: how many.
 */
#include "wait.h"

#include <malloc.h>

enum { THREADS = 8 };

static void *wait_often(void *argument)
{
	for (intptr_t n = (intptr_t)argument; n > 0; n--) {
		session_lock_handle lock;
		CHECK(session_lock_wait(NULL, "s", 1, -1, &lock) == -ETIMEDOUT);
	}
	return NULL;
}

static void wait_in_many_threads(int count)
{
	pthread_t thread[THREADS];
	for (int n = 0; n < THREADS; n++) {
		intptr_t share = count / THREADS;
		CHECK(pthread_create(&thread[n], NULL, wait_often, (void *)share) == 0);
	}
	for (int n = 0; n < THREADS; n++)
		CHECK(pthread_join(thread[n], NULL) == 0);
}

/* Pages of the process: mapped, and in memory. */
static void pages(long *mapped, long *resident)
{
	FILE *statm = fopen("/proc/self/statm", "re");
	CHECK(statm != NULL);
	CHECK(fscanf(statm, "%ld %ld", mapped, resident) == 2);
	fclose(statm);
}

int main(int count, char **arguments)
{
	int waits = count > 1 ? atoi(arguments[1]) : 10000;
	long mapped, mapped_before, resident, resident_before;
	/* An arena more or less, 64 MiB of addresses, would hide what we look for. */
	CHECK(mallopt(M_ARENA_MAX, 1) == 1);
	begin();
	pid_t holder = start_holder();
	wait_in_many_threads(waits / 10);
	/* The kernel lists a thread for a moment after it has been joined. */
	AWAIT(threads() == 1);
	int threads_before = threads(), descriptors_before = descriptors();
	pages(&mapped_before, &resident_before);
	struct mallinfo2 heap_before = mallinfo2();
	wait_in_many_threads(waits);
	struct mallinfo2 heap = mallinfo2();
	pages(&mapped, &resident);
	printf("%d waits: heap %+jd bytes, %+ld pages mapped, %+ld resident\n", waits,
	       (intmax_t)heap.uordblks - (intmax_t)heap_before.uordblks, mapped - mapped_before,
	       resident - resident_before);
	/* A byte for each wait would be more than that; so would a page for every hundredth. */
	CHECK(heap.uordblks < heap_before.uordblks + (size_t)waits);
	CHECK(resident < resident_before + waits / 100);
	/* glibc keeps some stacks of ended threads; one for every hundredth wait would be none of these. */
	CHECK(mapped < mapped_before + waits / 100 * 17);
	nothing_left(threads_before, descriptors_before);
	kill_holder(holder);
	return 0;
}
