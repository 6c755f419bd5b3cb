/*
 * The thread that a wait starts never runs a signal handler of the host program: it has everything
 * blocked that can be, whatever the mask of the caller is.
 */
#include "wait.h"

#include <stdatomic.h>

static atomic_int handled, by_others;
static pid_t main_thread, holder;

static void handler(int signal)
{
	(void)signal;
	handled++;
	if (gettid() != main_thread)
		by_others++;
}

static uint64_t blocked_signals(pid_t thread)
{
	char name[64], line[256];
	uint64_t mask = 0;
	snprintf(name, sizeof name, "/proc/self/task/%d/status", thread);
	FILE *status = fopen(name, "re");
	CHECK(status != NULL);
	while (fgets(line, sizeof line, status) != NULL)
		if (strncmp(line, "SigBlk:", 7) == 0)
			mask = strtoull(line + 7, NULL, 16);
	fclose(status);
	return mask;
}

/* The thread that is blocked in flock; 0 if there is none yet. */
static pid_t waiting_thread(void)
{
	pid_t found = 0;
	DIR *tasks = opendir("/proc/self/task");
	CHECK(tasks != NULL);
	for (struct dirent *task; (task = readdir(tasks)) != NULL;)
		if (is_in(getpid(), atoi(task->d_name), SYS_flock))
			found = atoi(task->d_name);
	closedir(tasks);
	return found;
}

static void *shower(void *argument)
{
	/* SIGKILL and SIGSTOP cannot be blocked; with 32 and 33 glibc cancels threads and changes
	 * their credentials. */
	const uint64_t open = 1ull << 8 | 1ull << 18 | 1ull << 31 | 1ull << 32;
	AWAIT(waiting_thread() != 0);
	CHECK(blocked_signals(waiting_thread()) == ~open);
	for (int n = 0; n < 1000; n++) {
		CHECK(kill(getpid(), SIGUSR1) == 0);
		CHECK(kill(getpid(), SIGRTMIN + n % 20) == 0 || errno == EAGAIN);
	}
	CHECK(waiting_thread() != 0);
	CHECK(handled == 0);
	kill_holder(holder);
	return argument;
}

int main(void)
{
	struct sigaction action = {.sa_handler = handler};
	session_lock_handle lock;
	sigset_t all, before;
	pthread_t thread;
	begin();
	main_thread = gettid();
	for (int signal = 1; signal <= SIGRTMAX; signal++)
		if (signal == SIGUSR1 || signal >= SIGRTMIN)
			CHECK(sigaction(signal, &action, NULL) == 0);
	holder = start_holder();
	/* Nobody but the helper thread could take a signal now. */
	sigfillset(&all);
	CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
	CHECK(pthread_create(&thread, NULL, shower, NULL) == 0);
	uint64_t mask = blocked_signals(main_thread);
	CHECK(session_lock_wait(NULL, "s", 120000, -1, &lock) == 0);
	CHECK(blocked_signals(main_thread) == mask);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(handled == 0);
	/* They were there all the time. */
	CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
	CHECK(handled > 0 && by_others == 0);
	CHECK(session_lock_release(lock) == 0);
	return 0;
}
