/* The calendar's clock of one process, put off by as many seconds as a file says (clock.rs).
 *
 * Preloaded. It asks the kernel itself and neither allocates nor looks up a symbol, since jemalloc asks
 * for the time before it can give memory: there libfaketime hangs. The clock that counts from the boot
 * is left alone. The file is mapped, so a jump is felt at the next look, and every look is counted in it:
 * whoever set the clock sees that the process has taken the time from it.
 *
 * A wait until a time of the calendar is put back by as much, for the kernel knows only its own time.
 * One that is under way when the clock jumps ends when it would have ended without the jump. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct shared {
    _Atomic int64_t off_s;   /* set by the driver */
    _Atomic int64_t looks;   /* how often the time was given out */
    _Atomic int64_t given_s; /* which, the last time */
};

static struct shared *shared;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("BENCHES_CLOCK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED)
        shared = at;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, clock, at);
    if (!failed && shared && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        at->tv_sec += shared->off_s;
        shared->given_s = at->tv_sec;
        shared->looks++;
    }
    return failed;
}

time_t time(time_t *seconds) {
    struct timespec at = {0};
    clock_gettime(CLOCK_REALTIME, &at);
    if (seconds)
        *seconds = at.tv_sec;
    return at.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec at = {0};
    int failed = clock_gettime(CLOCK_REALTIME, &at);
    *now = (struct timeval){.tv_sec = at.tv_sec, .tv_usec = at.tv_nsec / 1000};
    return failed;
}

/* All condition variables of RocksDB and jemalloc count by the calendar. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec real = *until;
    if (shared)
        real.tv_sec -= shared->off_s;
    return pthread_cond_clockwait(cond, mutex, CLOCK_REALTIME, &real);
}
