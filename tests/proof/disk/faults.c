/* Loaded with LD_PRELOAD: a disk that fails on command, and remembers every write and every sync.
 *
 * OUTBOX_FAULTS_CONTROL names a file that is shared with whoever steers: `struct control`.
 * OUTBOX_FAULTS_LOG names a file to which one `struct record` is appended for each call on a watched file, followed by
 * the bytes that a write has written. Watched are the files of a SQLite database below the folder in the control.
 * With a limit the folder is a small disk, of blocks of 4096 bytes, for every file right in it.
 * The limit may be a quota, which no figure of the disk shows, or a database's sync is the first to find out about it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, OPEN = 8, CLOSE = 16, UNLINK = 32 };
enum { DATABASE = 1, WAL = 2, SHM = 4 };
enum { SMALL = 0, QUOTA = 1, LATE = 2 };

struct control {
    _Atomic uint32_t armed; /* 0: nothing fails */
    uint32_t calls;         /* which calls may fail, a sum of the values above */
    uint32_t files;         /* on which files */
    uint32_t first;         /* the first of them that fails, from 1 on */
    uint32_t times;         /* how many fail; 0: every one from there on */
    uint32_t error;         /* errno */
    uint32_t torn;          /* 1: half of a failing write is carried out */
    _Atomic uint32_t seen;  /* calls that might have failed, while armed */
    _Atomic uint32_t failed;
    char folder[256];       /* "": nothing is watched; it ends with a slash */
    uint32_t kind;          /* of the limit */
    uint64_t limit;         /* how many bytes fit into the folder; 0: as many as may be */
};

struct record {
    uint32_t call, file;
    int32_t error; /* 0: it was carried out */
    uint32_t length;
    int64_t offset;
};

static struct control *control;
static int log_fd = -1;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off64_t);
static int (*real_close)(int), (*real_unlink)(const char *);
static int (*real_open)(const char *, int, ...);
static int (*real_fallocate)(int, off64_t, off64_t);
static int (*real_statvfs)(const char *, struct statvfs64 *);

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("OUTBOX_FAULTS_CONTROL"), *log = getenv("OUTBOX_FAULTS_LOG");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_fallocate = dlsym(RTLD_NEXT, "posix_fallocate64");
    real_statvfs = dlsym(RTLD_NEXT, "statvfs64");
    if (name == NULL || log == NULL) return;
    int fd = real_open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0) abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_close(fd);
    log_fd = real_open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (control == MAP_FAILED || log_fd < 0) abort();
}

static uint32_t kind_of(const char *path) {
    if (control == NULL || control->folder[0] == 0) return 0;
    if (strncmp(path, control->folder, strlen(control->folder)) != 0) return 0;
    size_t length = strlen(path);
    const char *names[] = {".db", ".db-wal", ".db-shm"};
    for (int i = 0; i < 3; i++) {
        size_t tail = strlen(names[i]);
        if (length > tail && strcmp(path + length - tail, names[i]) == 0) return 1u << i;
    }
    return 0;
}

/* Write the path of an open file; return 0: it is none, or nothing is watched. */
static int path_of(int fd, char *path, size_t size) {
    char link[64];
    if (control == NULL || control->folder[0] == 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static uint32_t file_of(int fd) {
    char path[512];
    return path_of(fd, path, sizeof path) ? kind_of(path) : 0;
}

static uint64_t blocks(uint64_t bytes) { return (bytes + 4095) / 4096; }

/* Return how many blocks the files in the folder take. */
static uint64_t used_blocks(void) {
    uint64_t used = 0;
    DIR *folder = opendir(control->folder);
    if (folder == NULL) return UINT64_MAX;
    for (struct dirent64 *entry; (entry = readdir64(folder)) != NULL;) {
        struct stat64 facts;
        if (fstatat64(dirfd(folder), entry->d_name, &facts, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(facts.st_mode))
            used += blocks(facts.st_size);
    }
    closedir(folder);
    return used;
}

/* Return how many blocks are free below the limit. */
static uint64_t free_blocks(void) {
    uint64_t used = used_blocks();
    return used < blocks(control->limit) ? blocks(control->limit) - used : 0;
}

static int over_limit(void) { return used_blocks() > blocks(control->limit); }

/* Return whether the file may become as long as `end`. */
static int fits(int fd, int64_t end) {
    char path[512];
    struct stat64 facts;
    if (control == NULL || !control->limit || !path_of(fd, path, sizeof path)) return 1;
    if (strncmp(path, control->folder, strlen(control->folder)) != 0 || fstat64(fd, &facts) != 0) return 1;
    uint64_t before = blocks(facts.st_size), after = blocks(end);
    return after <= before || after - before <= free_blocks();
}

static int no_room(void) { return control->kind == QUOTA ? EDQUOT : ENOSPC; }

/* Return whether a write fits, as far as it is found out about now. */
static int write_fits(int fd, int64_t end) {
    return (control != NULL && control->kind == LATE && file_of(fd)) || fits(fd, end);
}

/* Return whether what was written to a database fits after all. */
static int sync_fits(void) { return control->kind != LATE || !control->limit || !over_limit(); }

/* Return whether this call fails. */
static int strikes(uint32_t call, uint32_t file) {
    if (!control->armed || !(control->calls & call) || !(control->files & file)) return 0;
    uint32_t number = atomic_fetch_add(&control->seen, 1) + 1;
    if (number < control->first) return 0;
    if (control->times && number >= control->first + control->times) return 0;
    atomic_fetch_add(&control->failed, 1);
    return 1;
}

static void note(uint32_t call, uint32_t file, int error, const void *data, size_t length, int64_t offset) {
    int before = errno;
    struct record record = {call, file, error, (uint32_t)length, offset};
    struct iovec parts[] = {{&record, sizeof record}, {(void *)data, data ? length : 0}};
    if (writev(log_fd, parts, 2) < 0) abort();
    errno = before;
}

static ssize_t watched_write(int fd, const void *data, size_t length, int64_t offset, uint32_t file) {
    if (strikes(WRITE, file)) {
        size_t half = control->torn ? length / 2 : 0;
        if (half && (offset < 0 ? real_write(fd, data, half) : real_pwrite(fd, data, half, offset)) == (ssize_t)half)
            note(WRITE, file, 0, data, half, offset);
        note(WRITE, file, control->error, NULL, 0, offset);
        errno = control->error;
        return -1;
    }
    ssize_t done = offset < 0 ? real_write(fd, data, length) : real_pwrite(fd, data, length, offset);
    if (done >= 0) note(WRITE, file, 0, data, done, offset);
    else note(WRITE, file, errno, NULL, 0, offset);
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    uint32_t file = file_of(fd);
    if (!write_fits(fd, lseek64(fd, 0, SEEK_CUR) + length)) {
        errno = no_room();
        return -1;
    }
    if (!file) return real_write(fd, data, length);
    return watched_write(fd, data, length, lseek64(fd, 0, SEEK_CUR), file);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    uint32_t file = file_of(fd);
    if (!write_fits(fd, offset + length)) {
        errno = no_room();
        return -1;
    }
    return file ? watched_write(fd, data, length, offset, file) : real_pwrite(fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

static int watched_sync(int fd, int (*real)(int)) {
    uint32_t file = file_of(fd);
    if (file && !sync_fits()) {
        note(SYNC, file, ENOSPC, NULL, 0, 0);
        errno = ENOSPC;
        return -1;
    }
    if (!file) return real(fd);
    if (strikes(SYNC, file)) {
        note(SYNC, file, control->error, NULL, 0, 0);
        errno = control->error;
        return -1;
    }
    int result = real(fd);
    note(SYNC, file, result ? errno : 0, NULL, 0, 0);
    return result;
}

int fsync(int fd) { return watched_sync(fd, real_fsync); }

int fdatasync(int fd) { return watched_sync(fd, real_fdatasync); }

int ftruncate64(int fd, off64_t length) {
    uint32_t file = file_of(fd);
    if (!write_fits(fd, length)) {
        errno = no_room();
        return -1;
    }
    if (!file) return real_ftruncate(fd, length);
    if (strikes(TRUNCATE, file)) {
        note(TRUNCATE, file, control->error, NULL, 0, length);
        errno = control->error;
        return -1;
    }
    int result = real_ftruncate(fd, length);
    note(TRUNCATE, file, result ? errno : 0, NULL, 0, length);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    uint32_t file = kind_of(path);
    if (file && strikes(OPEN, file)) {
        note(OPEN, file, control->error, NULL, 0, 0);
        errno = control->error;
        return -1;
    }
    int fd = real_open(path, flags, mode);
    /* offset: whether it may write */
    if (file) note(OPEN, file, fd < 0 ? errno : 0, NULL, 0, (flags & O_ACCMODE) != O_RDONLY);
    return fd;
}

int close(int fd) {
    uint32_t file = file_of(fd);
    if (file) note(CLOSE, file, 0, NULL, 0, 0);
    return real_close(fd);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return fits(fd, offset + length) ? real_fallocate(fd, offset, length) : no_room();
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

int statvfs64(const char *path, struct statvfs64 *facts) {
    int result = real_statvfs(path, facts);
    if (result == 0 && control != NULL && control->limit && control->kind == SMALL && control->folder[0] != 0 &&
        strncmp(path, control->folder, strlen(control->folder) - 1) == 0) {
        facts->f_bsize = facts->f_frsize = 4096;
        facts->f_blocks = blocks(control->limit);
        facts->f_bfree = facts->f_bavail = free_blocks();
    }
    return result;
}

int statvfs(const char *path, struct statvfs *facts) { return statvfs64(path, (struct statvfs64 *)facts); }

int unlink(const char *path) {
    uint32_t file = kind_of(path);
    int result = real_unlink(path);
    if (file) note(UNLINK, file, result ? errno : 0, NULL, 0, 0);
    return result;
}
