/* A disk that can be told to fail, and that remembers what it was told to keep.
 *
 * Preloaded into a process (LD_PRELOAD) this library stands between it and the file system for
 * everything below some folders. It does two things:
 *
 * - It writes a diary of every change: bytes written, lengths set, names made, moved and taken
 *   away, and every sync that succeeded, with what it covered. The diary is written by plain
 *   writes outside of the folders, so it survives SIGKILL. From the state before and the diary,
 *   `power.rs` makes what a power cut at that moment could have left.
 * - It fails on demand: syncs, writes, reads, a full disk, slow syncs, short writes; and it lies,
 *   which is to say that it calls a sync done that it did not note.
 *
 * Changes are made and noted under one lock, so the diary is in the order in which they took
 * place. A sync waits outside of it, and covers what was in the diary when it began. A process
 * that is killed between a change and its note leaves a change that the diary lacks: it was not
 * synced, so it may be missing.
 *
 * What it can't see: changes through a shared writable mapping (noted as such: the harness
 * refuses the run), stdio, and system calls made without libc. The harness compares the whole
 * diary, all of it applied, with the folder of a node that was stopped, and so knows that nothing
 * went past.
 *
 * Environment: FAULTS_ROOTS (absolute folders, by colon), FAULTS_DIARY (a file to
 * append to; absent: no diary), FAULTS_CONTROL (a file of `struct control`, mapped, so
 * that a test can change its mind while the process runs), FAULTS_PATH (faults strike only
 * paths that contain this). Without a control file the switches are read from the environment:
 * FAIL_SYNC_AFTER, FAIL_WRITE_AFTER, FAIL_READ_AFTER, WRITE_ENOSPC, SHORT_WRITE, SLOW_MS,
 * LIE_SYNC.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* What can be switched, as little-endian words of 8 bytes. `-1` in a counter: never. A counter
 * lets so many calls pass and fails each one after. */
struct control {
    _Atomic int64_t fail_sync_after;
    _Atomic int64_t fail_write_after;
    _Atomic int64_t fail_read_after;
    _Atomic int64_t write_enospc;  /* 1: what would grow a file or make one fails */
    _Atomic int64_t short_write;   /* so many writes take only half of what they are given */
    _Atomic int64_t slow_ms;       /* each sync takes so much longer */
    _Atomic int64_t lie_sync;      /* 1: a sync says that it is done, and does nothing */
    _Atomic int64_t syncs;         /* told, not asked: syncs that struck paths of the faults */
};

static struct control own = {-1, -1, -1, 0, 0, 0, 0, 0};
static struct control *control = &own;

enum kind {
    K_WRITE = 1,    /* inode, offset, -, bytes */
    K_LENGTH = 2,   /* inode, length */
    K_GROW = 3,     /* inode, least length */
    K_CREATE = 4,   /* inode, -, -, path */
    K_MKDIR = 5,    /* inode, -, -, path */
    K_RENAME = 6,   /* -, -, -, from, to */
    K_REMOVE = 7,   /* -, -, -, path (file or folder) */
    K_LINK = 8,     /* inode, -, -, from, to */
    K_SYNC = 9,     /* inode, covers that many bytes of the diary */
    K_OPEN = 10,    /* inode, -, -, path: an existing file was opened */
    K_UNSEEN = 11   /* inode, -, -, what: a change that can't be followed */
};

struct note {
    uint32_t magic;
    uint32_t kind;
    uint64_t a, b, c;
    uint32_t one_bytes, two_bytes;
};
#define NOTE_MAGIC 0x4d454453u

#define FDS_MAX 65536
struct seen {
    _Atomic char on;
    char folder;
    char append;
    char struck; /* faults strike it */
    uint64_t inode;
};
static struct seen fds[FDS_MAX];

static char roots[8][PATH_MAX];
static int root_count;
static const char *fault_path;
static int diary = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, ...)                               \
    static result (*real_##name)(__VA_ARGS__);                \
    static void find_##name(void) {                           \
        if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name); \
    }
REAL(int, open, const char *, int, ...)
REAL(int, open64, const char *, int, ...)
REAL(int, openat, int, const char *, int, ...)
REAL(int, openat64, int, const char *, int, ...)
REAL(int, close, int)
REAL(int, dup, int)
REAL(int, dup2, int, int)
REAL(int, dup3, int, int, int)
REAL(int, fcntl, int, int, ...)
REAL(int, fcntl64, int, int, ...)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(ssize_t, read, int, void *, size_t)
REAL(ssize_t, pread, int, void *, size_t, off_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned)
REAL(ssize_t, sendfile, int, int, off_t *, size_t)
REAL(int, ftruncate, int, off_t)
REAL(int, fallocate, int, int, off_t, off_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, rename, const char *, const char *)
REAL(int, unlink, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, rmdir, const char *)
REAL(int, mkdir, const char *, mode_t)
REAL(int, link, const char *, const char *)
REAL(int, linkat, int, const char *, int, const char *, int)
REAL(void *, mmap, void *, size_t, int, int, int, off_t)
REAL(void *, mmap64, void *, size_t, int, int, int, off_t)
REAL(FILE *, fdopen, int, const char *)
REAL(DIR *, fdopendir, int)
REAL(int, fclose, FILE *)

static void complain(const char *what) {
    ssize_t written = real_write(2, what, strlen(what));
    (void)written;
}

static int64_t asked(const char *name, int64_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoll(text, NULL, 10) : otherwise;
}

static void find_all(void) {
    find_open(); find_open64(); find_openat(); find_openat64(); find_close(); find_dup();
    find_dup2(); find_dup3(); find_fcntl(); find_fcntl64(); find_write(); find_pwrite();
    find_read(); find_pread(); find_writev(); find_copy_file_range(); find_sendfile();
    find_ftruncate(); find_fallocate(); find_fsync(); find_fdatasync(); find_rename();
    find_unlink(); find_unlinkat(); find_rmdir(); find_mkdir(); find_link(); find_linkat();
    find_mmap(); find_mmap64(); find_fdopen(); find_fdopendir(); find_fclose();
}

static _Atomic int ready;

static void start(void) {
    find_all();
    const char *folders = getenv("FAULTS_ROOTS");
    while (folders && *folders && root_count < 8) {
        const char *end = strchrnul(folders, ':');
        size_t bytes = (size_t)(end - folders);
        if (bytes > 0 && bytes < PATH_MAX) {
            memcpy(roots[root_count], folders, bytes);
            roots[root_count][bytes] = 0;
            root_count++;
        }
        folders = *end ? end + 1 : end;
    }
    fault_path = getenv("FAULTS_PATH");
    own.fail_sync_after = asked("FAIL_SYNC_AFTER", -1);
    own.fail_write_after = asked("FAIL_WRITE_AFTER", -1);
    own.fail_read_after = asked("FAIL_READ_AFTER", -1);
    own.write_enospc = asked("WRITE_ENOSPC", 0);
    own.short_write = asked("SHORT_WRITE", 0);
    own.slow_ms = asked("SLOW_MS", 0);
    own.lie_sync = asked("LIE_SYNC", 0);
    const char *path = getenv("FAULTS_CONTROL");
    if (path && *path) {
        int fd = real_open(path, O_RDWR | O_CLOEXEC);
        void *at = fd < 0 ? MAP_FAILED
                          : real_mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) {
            complain("faults: the control file can't be mapped\n");
            _exit(99);
        }
        real_close(fd);
        control = at;
    }
    path = getenv("FAULTS_DIARY");
    if (path && *path) {
        int fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        /* High, so that no close of a whole range of low numbers takes it away. */
        diary = fd < 0 ? -1 : real_fcntl(fd, F_DUPFD_CLOEXEC, 900);
        if (diary < 0) {
            complain("faults: the diary can't be opened\n");
            _exit(99);
        }
        real_close(fd);
    }
    ready = 1;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
__attribute__((constructor)) static void begin(void) { pthread_once(&once, start); }
#define BEGIN do { if (!ready) pthread_once(&once, start); } while (0)

/* --- the diary ------------------------------------------------------------------------------ */

/* Under the lock. */
static void note(uint32_t kind, uint64_t a, uint64_t b, uint64_t c, const void *one,
                 size_t one_bytes, const void *two, size_t two_bytes) {
    if (diary < 0) return;
    struct note head = {NOTE_MAGIC, kind, a, b, c, (uint32_t)one_bytes, (uint32_t)two_bytes};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)one, one_bytes}, {(void *)two, two_bytes}};
    ssize_t all = (ssize_t)(sizeof head + one_bytes + two_bytes);
    if (real_writev(diary, parts, 3) != all) {
        complain("faults: the diary can't be written\n");
        _exit(99);
    }
}

static void note_path(uint32_t kind, uint64_t inode, const char *one, const char *two) {
    note(kind, inode, 0, 0, one, strlen(one), two, two ? strlen(two) : 0);
}

/* --- paths and files ------------------------------------------------------------------------ */

/* The absolute path in `out`, if it is below a root. */
static int inside(int at, const char *path, char *out) {
    if (root_count == 0 || !path) return 0;
    if (path[0] == '/') {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(out, path);
    } else {
        char link[64];
        if (at == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t bytes = readlink(link, out, PATH_MAX - 1);
        if (bytes <= 0 || (size_t)bytes + strlen(path) + 2 > PATH_MAX) return 0;
        out[bytes] = 0;
        if (*path) {
            strcat(out, "/");
            strcat(out, path);
        }
    }
    /* No doubled or trailing slashes: names are compared as text. */
    char *to = out;
    for (char *from = out; *from; from++)
        if (!(*from == '/' && (from[1] == '/' || from[1] == 0) && from != out)) *to++ = *from;
    *to = 0;
    for (int i = 0; i < root_count; i++) {
        size_t bytes = strlen(roots[i]);
        if (!strncmp(out, roots[i], bytes) && (out[bytes] == 0 || out[bytes] == '/')) return 1;
    }
    return 0;
}

static int struck(const char *path) { return !fault_path || !*fault_path || strstr(path, fault_path); }

static struct seen *seen(int fd) {
    if (fd < 0 || fd >= FDS_MAX || !fds[fd].on) return NULL;
    struct stat stat;
    if (fstat(fd, &stat) || stat.st_ino != fds[fd].inode) {
        fds[fd].on = 0; /* closed where we did not see it */
        return NULL;
    }
    return &fds[fd];
}

static void look_at(int fd, const char *path, int flags) {
    struct stat stat;
    if (fd < 0 || fd >= FDS_MAX || fstat(fd, &stat)) return;
    if (!S_ISREG(stat.st_mode) && !S_ISDIR(stat.st_mode)) return;
    struct seen *file = &fds[fd];
    file->folder = S_ISDIR(stat.st_mode);
    file->append = (flags & O_APPEND) != 0;
    file->struck = struck(path) != 0;
    file->inode = stat.st_ino;
    file->on = 1;
}

static void unsee(int fd) {
    if (fd >= 0 && fd < FDS_MAX) fds[fd].on = 0;
}

/* Counts one call down. 1 if it is to fail. */
static int strikes(_Atomic int64_t *left) {
    int64_t now = *left;
    while (now >= 0) {
        if (now == 0) return 1;
        if (atomic_compare_exchange_weak(left, &now, now - 1)) return 0;
    }
    return 0;
}

/* --- opening and closing -------------------------------------------------------------------- */

static int open_noted(int at, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    if (!inside(at, path, whole)) return real_openat(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int was = !stat(whole, &before);
    int fd = -1;
    if (!was && (flags & O_CREAT) && control->write_enospc && struck(whole)) errno = ENOSPC;
    else fd = real_openat(at, path, flags, mode);
    int error = errno;
    if (fd >= 0) {
        look_at(fd, whole, flags);
        if (fd < FDS_MAX && fds[fd].on && !fds[fd].folder) {
            uint64_t inode = fds[fd].inode;
            note_path(was ? K_OPEN : K_CREATE, inode, whole, NULL);
            if (was && (flags & O_TRUNC)) note(K_LENGTH, inode, 0, 0, NULL, 0, NULL, 0);
        } else if (fd < FDS_MAX && fds[fd].on) {
            note_path(K_OPEN, fds[fd].inode, whole, NULL);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE_OF(flags)                        \
    mode_t mode = 0;                          \
    if ((flags) & (O_CREAT | O_TMPFILE)) {    \
        va_list rest;                         \
        va_start(rest, flags);                \
        mode = (mode_t)va_arg(rest, int);     \
        va_end(rest);                         \
    }

int open(const char *path, int flags, ...) { BEGIN; MODE_OF(flags) return open_noted(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { BEGIN; MODE_OF(flags) return open_noted(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { BEGIN; MODE_OF(flags) return open_noted(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { BEGIN; MODE_OF(flags) return open_noted(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { BEGIN; return open_noted(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) { BEGIN; unsee(fd); return real_close(fd); }
int fclose(FILE *file) { BEGIN; if (file) unsee(fileno(file)); return real_fclose(file); }

static void same(int from, int to) {
    if (from < 0 || from >= FDS_MAX || to < 0 || to >= FDS_MAX) return;
    fds[to] = fds[from];
}
int dup(int fd) { BEGIN; int to = real_dup(fd); same(fd, to); return to; }
int dup2(int fd, int to) { BEGIN; int got = real_dup2(fd, to); if (got >= 0) same(fd, got); return got; }
int dup3(int fd, int to, int flags) { BEGIN; int got = real_dup3(fd, to, flags); if (got >= 0) same(fd, got); return got; }

static int fcntl_noted(int (*real)(int, int, ...), int fd, int what, void *with) {
    int got = real(fd, what, with);
    if (got >= 0 && (what == F_DUPFD || what == F_DUPFD_CLOEXEC)) same(fd, got);
    return got;
}
int fcntl(int fd, int what, ...) {
    BEGIN; va_list rest; va_start(rest, what); void *with = va_arg(rest, void *); va_end(rest);
    return fcntl_noted(real_fcntl, fd, what, with);
}
int fcntl64(int fd, int what, ...) {
    BEGIN; va_list rest; va_start(rest, what); void *with = va_arg(rest, void *); va_end(rest);
    return fcntl_noted(real_fcntl64 ? real_fcntl64 : real_fcntl, fd, what, with);
}

/* A stream writes past us; only reading goes this way. */
FILE *fdopen(int fd, const char *mode) {
    BEGIN;
    struct seen *file = seen(fd);
    if (file && strpbrk(mode, "wa+")) {
        pthread_mutex_lock(&lock);
        note_path(K_UNSEEN, file->inode, "fdopen", NULL);
        pthread_mutex_unlock(&lock);
    }
    unsee(fd);
    return real_fdopen(fd, mode);
}
DIR *fdopendir(int fd) { BEGIN; unsee(fd); return real_fdopendir(fd); }

/* --- bytes ---------------------------------------------------------------------------------- */

/* What a fault makes of a write of so many bytes that would end at `end`: the bytes it may take,
 * or -1 with errno set. Under the lock. */
static ssize_t allowed(const struct seen *file, int fd, size_t bytes, off_t end) {
    if (!file->struck) return (ssize_t)bytes;
    if (strikes(&control->fail_write_after)) {
        errno = EIO;
        return -1;
    }
    struct stat stat;
    if (control->write_enospc && !fstat(fd, &stat) && end > stat.st_size) {
        errno = ENOSPC;
        return -1;
    }
    if (bytes > 1 && control->short_write > 0) {
        control->short_write--;
        return (ssize_t)(bytes / 2);
    }
    return (ssize_t)bytes;
}

static ssize_t write_noted(int fd, struct seen *file, const void *from, size_t bytes, off_t offset,
                           int moves) {
    pthread_mutex_lock(&lock);
    struct stat stat;
    if (moves) {
        if (file->append) offset = fstat(fd, &stat) ? 0 : stat.st_size;
        else offset = lseek(fd, 0, SEEK_CUR);
    }
    ssize_t done = allowed(file, fd, bytes, offset + (off_t)bytes);
    if (done > 0 || bytes == 0)
        done = moves ? real_write(fd, from, (size_t)done) : real_pwrite(fd, from, (size_t)done, offset);
    int error = errno;
    if (done > 0) note(K_WRITE, file->inode, (uint64_t)offset, 0, from, (size_t)done, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *from, size_t bytes) {
    BEGIN;
    struct seen *file = seen(fd);
    return file ? write_noted(fd, file, from, bytes, 0, 1) : real_write(fd, from, bytes);
}
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset) {
    BEGIN;
    struct seen *file = seen(fd);
    return file ? write_noted(fd, file, from, bytes, offset, 0) : real_pwrite(fd, from, bytes, offset);
}
ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t offset) { return pwrite(fd, from, bytes, offset); }

/* Several parts, one after the other: a caller must be ready for part of them. */
static ssize_t writev_noted(int fd, struct seen *file, const struct iovec *parts, int count,
                            off_t offset, int moves) {
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        if (parts[i].iov_len == 0) continue;
        ssize_t done = write_noted(fd, file, parts[i].iov_base, parts[i].iov_len, offset + all, moves);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return all;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    BEGIN;
    struct seen *file = seen(fd);
    return file ? writev_noted(fd, file, parts, count, 0, 1) : real_writev(fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    BEGIN;
    struct seen *file = seen(fd);
    if (file) return writev_noted(fd, file, parts, count, offset, 0);
    static ssize_t (*real)(int, const struct iovec *, int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwritev");
    return real(fd, parts, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return pwritev(fd, parts, count, offset); }

static int unread(int fd) {
    struct seen *file = control->fail_read_after >= 0 ? seen(fd) : NULL;
    if (!file || !file->struck || !strikes(&control->fail_read_after)) return 0;
    errno = EIO;
    return 1;
}
ssize_t read(int fd, void *to, size_t bytes) { BEGIN; return unread(fd) ? -1 : real_read(fd, to, bytes); }
ssize_t pread(int fd, void *to, size_t bytes, off_t offset) { BEGIN; return unread(fd) ? -1 : real_pread(fd, to, bytes, offset); }
ssize_t pread64(int fd, void *to, size_t bytes, off64_t offset) { return pread(fd, to, bytes, offset); }

/* Refused, so that the caller falls back to reads and writes, which are seen. */
ssize_t copy_file_range(int in, off_t *in_at, int out, off_t *out_at, size_t bytes, unsigned flags) {
    BEGIN;
    if (seen(out)) { errno = ENOSYS; return -1; }
    return real_copy_file_range(in, in_at, out, out_at, bytes, flags);
}
ssize_t sendfile(int out, int in, off_t *at, size_t bytes) {
    BEGIN;
    if (seen(out)) { errno = ENOSYS; return -1; }
    return real_sendfile(out, in, at, bytes);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t bytes) { return sendfile(out, in, at, bytes); }

int ftruncate(int fd, off_t length) {
    BEGIN;
    struct seen *file = seen(fd);
    if (!file) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (allowed(file, fd, 1, length) >= 0) done = real_ftruncate(fd, length);
    int error = errno;
    if (!done) note(K_LENGTH, file->inode, (uint64_t)length, 0, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    BEGIN;
    struct seen *file = seen(fd);
    if (!file) return real_fallocate(fd, mode, offset, bytes);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (control->write_enospc && file->struck) errno = ENOSPC;
    else done = real_fallocate(fd, mode, offset, bytes);
    int error = errno;
    if (!done && mode == 0) note(K_GROW, file->inode, (uint64_t)(offset + bytes), 0, NULL, 0, NULL, 0);
    /* A kept size changes nothing that can be read; every other mode changes bytes. */
    else if (!done && mode != FALLOC_FL_KEEP_SIZE) note_path(K_UNSEEN, file->inode, "fallocate", NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) { return fallocate(fd, mode, offset, bytes); }
int posix_fallocate(int fd, off_t offset, off_t bytes) { return fallocate(fd, 0, offset, bytes) ? errno : 0; }
int posix_fallocate64(int fd, off64_t offset, off64_t bytes) { return posix_fallocate(fd, offset, bytes); }

static void mapped(int prot, int flags, int fd) {
    struct seen *file;
    if (fd < 0 || !(prot & PROT_WRITE) || !(flags & MAP_SHARED) || !(file = seen(fd))) return;
    pthread_mutex_lock(&lock);
    note_path(K_UNSEEN, file->inode, "mmap", NULL);
    pthread_mutex_unlock(&lock);
}
void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    BEGIN; if (ready) mapped(prot, flags, fd); return real_mmap(at, bytes, prot, flags, fd, offset);
}
void *mmap64(void *at, size_t bytes, int prot, int flags, int fd, off64_t offset) {
    BEGIN; if (ready) mapped(prot, flags, fd); return real_mmap64(at, bytes, prot, flags, fd, offset);
}

/* --- syncs ---------------------------------------------------------------------------------- */

static int sync_noted(int fd, struct seen *file, int (*real)(int)) {
    uint64_t inode = file->inode;
    int hit = file->struck;
    if (hit) {
        control->syncs++;
        int64_t slow = control->slow_ms;
        if (slow > 0) {
            struct timespec time = {slow / 1000, (slow % 1000) * 1000000};
            nanosleep(&time, NULL);
        }
        if (strikes(&control->fail_sync_after)) {
            errno = EIO;
            return -1;
        }
        if (control->lie_sync) return 0;
    }
    pthread_mutex_lock(&lock);
    struct stat told = {0};
    if (diary >= 0) fstat(diary, &told);
    uint64_t covers = (uint64_t)told.st_size;
    pthread_mutex_unlock(&lock);
    int done = real(fd);
    int error = errno;
    if (!done) {
        pthread_mutex_lock(&lock);
        note(K_SYNC, inode, covers, 0, NULL, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return done;
}
int fsync(int fd) { BEGIN; struct seen *file = seen(fd); return file ? sync_noted(fd, file, real_fsync) : real_fsync(fd); }
int fdatasync(int fd) { BEGIN; struct seen *file = seen(fd); return file ? sync_noted(fd, file, real_fdatasync) : real_fdatasync(fd); }
/* `sync_file_range` starts a write and promises nothing: it goes past. */

/* --- names ---------------------------------------------------------------------------------- */

int rename(const char *from, const char *to) {
    BEGIN;
    char one[PATH_MAX], two[PATH_MAX];
    int in = inside(AT_FDCWD, from, one), out = inside(AT_FDCWD, to, two);
    if (!in && !out) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int done = real_rename(from, to);
    int error = errno;
    if (!done) note_path(in && out ? K_RENAME : K_UNSEEN, 0, one, two);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int renameat(int a, const char *from, int b, const char *to) {
    if (a != AT_FDCWD || b != AT_FDCWD) { errno = ENOSYS; return -1; }
    return rename(from, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    BEGIN;
    char whole[PATH_MAX];
    if (!inside(a, from, whole) && !inside(b, to, whole)) {
        static int (*real)(int, const char *, int, const char *, unsigned);
        if (!real) real = dlsym(RTLD_NEXT, "renameat2");
        return real(a, from, b, to, flags);
    }
    if (flags) { errno = EINVAL; return -1; }
    return renameat(a, from, b, to);
}

static int removed(int at, const char *path, int flags) {
    char whole[PATH_MAX];
    if (!inside(at, path, whole)) return real_unlinkat(at, path, flags);
    pthread_mutex_lock(&lock);
    int done = real_unlinkat(at, path, flags);
    int error = errno;
    if (!done) note_path(K_REMOVE, 0, whole, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int unlink(const char *path) { BEGIN; return removed(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { BEGIN; return removed(at, path, flags); }
int rmdir(const char *path) { BEGIN; return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    struct stat stat;
    if (lstat(path, &stat)) return -1;
    return S_ISDIR(stat.st_mode) ? rmdir(path) : unlink(path);
}

int mkdir(const char *path, mode_t mode) {
    BEGIN;
    char whole[PATH_MAX];
    if (!inside(AT_FDCWD, path, whole)) return real_mkdir(path, mode);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (control->write_enospc && struck(whole)) errno = ENOSPC;
    else done = real_mkdir(path, mode);
    int error = errno;
    struct stat made;
    if (!done && !stat(whole, &made)) note_path(K_MKDIR, made.st_ino, whole, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int mkdirat(int at, const char *path, mode_t mode) {
    if (at != AT_FDCWD && path[0] != '/') { errno = ENOSYS; return -1; }
    return mkdir(path, mode);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    BEGIN;
    char one[PATH_MAX], two[PATH_MAX];
    int in = inside(a, from, one), out = inside(b, to, two);
    if (!in && !out) return real_linkat(a, from, b, to, flags);
    pthread_mutex_lock(&lock);
    int done = real_linkat(a, from, b, to, flags);
    int error = errno;
    struct stat made;
    if (!done && in && out && !stat(two, &made)) note_path(K_LINK, made.st_ino, one, two);
    else if (!done && out) note_path(K_UNSEEN, 0, one, two);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
