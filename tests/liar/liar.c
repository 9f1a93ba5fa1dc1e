/* A file system that lies, as an LD_PRELOAD library: it executes a call and then reports that it failed, answers late,
 * or repeats the call some seconds later, as a network file system does whose server has restarted.
 *
 * LIAR_PREFIX   only calls with a path below it
 * LIAR_CALLS    which: "rename,link,symlink,unlink" (rename stands for renameat and renameat2 too)
 * LIAR_LIE      ENOENT, EIO, ESTALE, EEXIST, delay or repeat
 * LIAR_PERCENT  how often; with LIAR_SEED. Or LIAR_NTH: only the k-th successful call since it was set
 * LIAR_SECONDS  for delay and repeat
 * LIAR_LOG      gets a line for each lie
 * A call that really fails is reported as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int state;
static long calls, counted_for;
static pid_t seeded;

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static void nap(double seconds) {
    struct timespec pause = {(time_t)seconds, (long)((seconds - (long)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

static int concerns(const char *path) {
    const char *prefix = getenv("LIAR_PREFIX");
    return prefix && path && strncmp(path, prefix, strlen(prefix)) == 0;
}

static int tells_a_lie(const char *call, const char *one, const char *other) {
    if (!strstr(setting("LIAR_CALLS", "rename"), call) || !(concerns(one) || concerns(other)))
        return 0;
    pthread_mutex_lock(&lock);
    if (seeded != getpid()) {
        seeded = getpid();
        state = (unsigned int)atol(setting("LIAR_SEED", "0")) * 2654435761u + (unsigned int)seeded;
        calls = 0;
    }
    long nth = atol(setting("LIAR_NTH", "0"));
    if (nth != counted_for) {
        counted_for = nth;
        calls = 0;
    }
    calls++;
    int lie = nth ? calls == nth : rand_r(&state) % 100 < atol(setting("LIAR_PERCENT", "100"));
    pthread_mutex_unlock(&lock);
    return lie;
}

static void note(const char *call, const char *one, const char *other) {
    const char *log = getenv("LIAR_LOG");
    char line[1200];
    int fd = log ? open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    int length = snprintf(line, sizeof line, "%s %s %s %s\n", setting("LIAR_LIE", ""), call, one, other);
    if (write(fd, line, length < (int)sizeof line ? (size_t)length : sizeof line - 1) < 0)
        abort();
    close(fd);
}

struct again {
    char *one, *other;
};

static void *repeat(void *given) {
    struct again *again = given;
    nap(atof(setting("LIAR_SECONDS", "5")));
    if (syscall(SYS_renameat2, AT_FDCWD, again->one, AT_FDCWD, again->other, 0) == 0)
        note("REPEATED", again->one, again->other); /* it found something to move: a name was used twice */
    free(again->one);
    free(again->other);
    free(again);
    return NULL;
}

static int lie(const char *call, const char *one, const char *other) {
    const char *kind = setting("LIAR_LIE", "ENOENT");
    if (strcmp(kind, "delay") == 0) {
        nap(atof(setting("LIAR_SECONDS", "0.1")));
        return 0;
    }
    if (strcmp(kind, "repeat") == 0) {
        struct again *again = strcmp(call, "rename") == 0 ? malloc(sizeof *again) : NULL;
        pthread_t thread;
        if (again) {
            again->one = strdup(one);
            again->other = strdup(other);
            if (pthread_create(&thread, NULL, repeat, again) == 0)
                pthread_detach(thread);
        }
        return 0;
    }
    errno = strcmp(kind, "EIO") == 0 ? EIO : strcmp(kind, "ESTALE") == 0 ? ESTALE
          : strcmp(kind, "EEXIST") == 0 ? EEXIST : ENOENT;
    return -1;
}

static int answer(long result, const char *call, const char *one, const char *other) {
    if (result != 0 || !tells_a_lie(call, one, other))
        return (int)result;
    note(call, one, other);
    return lie(call, one, other);
}

int rename(const char *one, const char *other) {
    return answer(syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 0), "rename", one, other);
}

int renameat(int from, const char *one, int to, const char *other) {
    return answer(syscall(SYS_renameat2, from, one, to, other, 0), "rename", one, other);
}

int renameat2(int from, const char *one, int to, const char *other, unsigned int flags) {
    return answer(syscall(SYS_renameat2, from, one, to, other, flags), "rename", one, other);
}

int link(const char *one, const char *other) {
    return answer(syscall(SYS_linkat, AT_FDCWD, one, AT_FDCWD, other, 0), "link", one, other);
}

int linkat(int from, const char *one, int to, const char *other, int flags) {
    return answer(syscall(SYS_linkat, from, one, to, other, flags), "link", one, other);
}

int symlink(const char *one, const char *other) {
    return answer(syscall(SYS_symlinkat, one, AT_FDCWD, other), "symlink", one, other);
}

int unlink(const char *one) {
    return answer(syscall(SYS_unlinkat, AT_FDCWD, one, 0), "unlink", one, "");
}
