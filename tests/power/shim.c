/* A library to be preloaded into the daemon: a power cut, a failing disk and a clock that is set, without any of them.
 *
 * It knows the database by its name: a file whose path ends in ".db" or "-wal".
 *
 * SHIM_SHADOW=FOLDER  After each fsync of such a file its bytes are copied into FOLDER: what a disk would have after a
 *                     power cut, were nothing kept but what was synced. It is read through the descriptor that was
 *                     synced: to open the file again, and to close it, would drop SQLite's locks.
 * SHIM_EIO=FILE       While FILE is there, an fsync of such a file fails with EIO. A FILE that begins with "once" is
 *                     taken away by the first.
 * SHIM_CLOCK=FILE     A signed 64-bit number of milliseconds, in the order of this machine, by which the wall clock is
 *                     off. It may be changed at any time. The monotonic clock is left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *shadow, *eio;
static volatile const int64_t *offset_ms;
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    shadow = getenv("SHIM_SHADOW");
    eio = getenv("SHIM_EIO");
    const char *clock_file = getenv("SHIM_CLOCK");
    if (clock_file) {
        int fd = open(clock_file, O_RDONLY | O_CLOEXEC);
        void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED) abort();
        close(fd);
        offset_ms = page;
    }
}

/* The name of the database file, or of its log, behind a descriptor; NULL for any other file. */
static const char *database_file(int fd, char *path, size_t room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, room - 1);
    if (length < 4) return NULL;
    path[length] = 0;
    if (strcmp(path + length - 3, ".db") && strcmp(path + length - 4, "-wal")) return NULL;
    return strrchr(path, '/') + 1;
}

static int fails(void) {
    char word[4] = "";
    int fd = eio ? open(eio, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t got = read(fd, word, sizeof word);
    close(fd);
    if (got == 4 && !memcmp(word, "once", 4)) unlink(eio);
    return 1;
}

static void copy(int from, const char *name) {
    static __thread char block[1 << 16];
    char target[4096], done[4096];
    snprintf(target, sizeof target, "%s/%s.tmp", shadow, name);
    snprintf(done, sizeof done, "%s/%s", shadow, name);
    int to = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0) abort(); /* a test with a hole in it would pass */
    off_t at = 0;
    for (ssize_t got; (got = pread(from, block, sizeof block, at)) != 0; at += got)
        if (got < 0 || write(to, block, got) != got) abort();
    close(to);
    if (rename(target, done)) abort();
}

static int synced(int fd, int (*sync)(int)) {
    char path[4096];
    const char *name = shadow || eio ? database_file(fd, path, sizeof path) : NULL;
    if (name && fails()) {
        errno = EIO;
        return -1;
    }
    int result = sync(fd);
    int before = errno;
    if (name && shadow && result == 0) copy(fd, name);
    errno = before;
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = real_clock_gettime(which, now);
    if (result == 0 && offset_ms && which == CLOCK_REALTIME) {
        int64_t ns = now->tv_nsec + *offset_ms % 1000 * 1000000;
        now->tv_sec += *offset_ms / 1000 + (ns >= 1000000000) - (ns < 0);
        now->tv_nsec = ns + (ns < 0) * 1000000000 - (ns >= 1000000000) * 1000000000;
    }
    return result;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict into, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    into->tv_sec = now.tv_sec;
    into->tv_usec = now.tv_nsec / 1000;
    return 0;
}
