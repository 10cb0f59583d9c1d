/* A disk that fails: preloaded into the process under test.
 *
 * EIO_DIR   a folder; syncs of files below it may fail
 * EIO_WHEN  a file: while it is there, every sync below EIO_DIR fails with EIO
 *
 * As on a real disk the bytes of the file stay readable, from the system's memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd)
{
    const char *dir = getenv("EIO_DIR"), *when = getenv("EIO_WHEN");
    char name[64], path[PATH_MAX];
    ssize_t length;
    if (!dir || !when || access(when, F_OK) != 0)
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    length = readlink(name, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

static int sync_or_fail(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fdatasync(int fd) { return sync_or_fail("fdatasync", fd); }
int fsync(int fd) { return sync_or_fail("fsync", fd); }
