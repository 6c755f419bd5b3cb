/*
 * A hundred threads of one process wait for one session while two others fork all the time: each gets
 * the lock or times out, as its deadline says, and no child has anything of it. Argument: how many
 * threads.
 */
#include "wait.h"

#include <stdatomic.h>

enum { NUMBERS = 2048 };

static bool open_before[NUMBERS];
static struct stat lock_file;
static atomic_int timed_out, got, inside, forks;
static atomic_bool over;

/* Every third will not get it: the lock is not given up before they have timed out. */
static bool hopeless(intptr_t number)
{
	return number % 3 == 0;
}

static void *wait_for_it(void *argument)
{
	intptr_t number = (intptr_t)argument;
	int64_t timeout = hopeless(number) ? 1 + number : 120000;
	session_lock_handle lock;
	int64_t start = now_us();
	int result = session_lock_wait(NULL, "s", timeout, -1, &lock);
	if (hopeless(number)) {
		CHECK(result == -ETIMEDOUT && lock == 0);
		CHECK(now_us() - start >= timeout * 1000);
		timed_out++;
	} else {
		CHECK(result == 0);
		CHECK(atomic_fetch_add(&inside, 1) == 0);
		CHECK(session_lock_check(lock) == 0);
		CHECK(atomic_fetch_sub(&inside, 1) == 1);
		CHECK(session_lock_release(lock) == 0);
		got++;
	}
	return NULL;
}

/* The lock file or an eventfd. (glibc itself opens a file in /sys now and then.) */
static bool is_of_the_library(int number)
{
	struct stat file;
	if (fstat(number, &file) != 0)
		return false;
	bool anonymous = (file.st_mode & S_IFMT) == 0;
	return anonymous || (file.st_dev == lock_file.st_dev && file.st_ino == lock_file.st_ino);
}

static void *fork_all_the_time(void *argument)
{
	while (!over) {
		int status;
		pid_t pid = fork();
		CHECK(pid != -1);
		if (pid == 0) {
			for (int number = 0; number < NUMBERS; number++)
				if (!open_before[number] && is_of_the_library(number))
					_exit(1);
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(status == 0);
		forks++;
	}
	return argument;
}

int main(int count, char **arguments)
{
	int number = count > 1 ? atoi(arguments[1]) : 100;
	pthread_t waiting[1000], forking[2];
	begin();
	CHECK(stat(path, &lock_file) == 0);
	CHECK(number <= 1000);
	for (int fd = 0; fd < NUMBERS; fd++)
		open_before[fd] = fcntl(fd, F_GETFD) != -1;
	int threads_before = threads(), descriptors_before = descriptors();

	session_lock_handle lock;
	CHECK(session_lock_acquire(NULL, "s", &lock) == 0);
	for (int n = 0; n < 2; n++)
		CHECK(pthread_create(&forking[n], NULL, fork_all_the_time, NULL) == 0);
	for (intptr_t n = 0; n < number; n++)
		CHECK(pthread_create(&waiting[n], NULL, wait_for_it, (void *)n) == 0);
	AWAIT(timed_out == (number + 2) / 3 && forks >= 10);
	AWAIT(waiters() == number - timed_out);
	int before = forks;
	CHECK(session_lock_release(lock) == 0);
	for (int n = 0; n < number; n++)
		CHECK(pthread_join(waiting[n], NULL) == 0);
	int during = forks - before;
	over = true;
	for (int n = 0; n < 2; n++)
		CHECK(pthread_join(forking[n], NULL) == 0);
	printf("%d got it, %d timed out; %d forks, %d while it went round\n", got, timed_out, forks,
	       during);
	CHECK(got + timed_out == number);
	CHECK(is_free());
	nothing_left(threads_before, descriptors_before);
	return 0;
}
