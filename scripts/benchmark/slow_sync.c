/* A slower disk for one process: every fsync and fdatasync takes SLOW_SYNC_US microseconds more.
 *
 *   cc -shared -fPIC -O2 -o slow_sync.so slow_sync.c -ldl
 *   SLOW_SYNC_US=5000 LD_PRELOAD=./slow_sync.so python ...
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef int (*sync_call)(int);

static struct timespec delay;

__attribute__((constructor)) static void read_delay(void)
{
    const char *text = getenv("SLOW_SYNC_US");
    long long us = text ? atoll(text) : 0;
    delay.tv_sec = us / 1000000;
    delay.tv_nsec = us % 1000000 * 1000;
}

static int after_delay(const char *name, int descriptor)
{
    sync_call real = (sync_call)dlsym(RTLD_NEXT, name);
    nanosleep(&delay, NULL);
    return real(descriptor);
}

int fsync(int descriptor) { return after_delay("fsync", descriptor); }
int fdatasync(int descriptor) { return after_delay("fdatasync", descriptor); }
