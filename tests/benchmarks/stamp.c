/* stamp FILE TOKEN: append "TOKEN nanoseconds\n" to FILE, the clock (CLOCK_MONOTONIC) read as the first thing done. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc != 3)
        return 2;
    char line[256];
    int size = snprintf(line, sizeof line, "%s %lld\n", argv[2], now.tv_sec * 1000000000LL + now.tv_nsec);
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || size < 0 || size >= (int)sizeof line || write(file, line, size) != size)
        return 1;
    return 0;
}
