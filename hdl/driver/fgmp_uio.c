#define _POSIX_C_SOURCE 200809L

#include "fgmp_uio.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 0x40000 }; /* registers and site memories */

static uint32_t get(void *context, uint32_t offset) { return ((fgmp_uio *)context)->registers[offset / 4]; }

static void put(void *context, uint32_t offset, uint32_t value) {
    ((fgmp_uio *)context)->registers[offset / 4] = value;
}

int fgmp_uio_open(fgmp_uio *device, const char *path) {
    void *mapped;
    device->file = open(path, O_RDWR);
    if (device->file < 0) return -1;
    mapped = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device->file, 0);
    if (mapped == MAP_FAILED) {
        close(device->file);
        return -1;
    }
    device->registers = mapped;
    return 0;
}

void fgmp_uio_close(fgmp_uio *device) {
    munmap((void *)device->registers, SIZE);
    close(device->file);
}

fgmp_bus fgmp_uio_bus(fgmp_uio *device) {
    fgmp_bus bus = {get, put, device};
    return bus;
}

int fgmp_uio_wait(fgmp_uio *device, int milliseconds) {
    const int32_t enable = 1;
    const uint32_t over = FGMP_EVENTS_DONE_MASK | FGMP_EVENTS_START_REJECTED_MASK | FGMP_EVENTS_CONFIG_ERROR_MASK;
    int32_t count;
    struct pollfd events = {device->file, POLLIN, 0};
    int ready;
    put(device, FGMP_INTERRUPT_ENABLE, over);
    if (write(device->file, &enable, sizeof enable) != (ssize_t)sizeof enable) return -1;
    ready = poll(&events, 1, milliseconds);
    if (ready > 0 && read(device->file, &count, sizeof count) != (ssize_t)sizeof count) return -1;
    return ready;
}

#ifdef FGMP_UIO_MAIN
/* cc -DFGMP_UIO_MAIN fgmp_uio.c fgmp_driver.c -o fgmp_uio && ./fgmp_uio /dev/uio0: says which engine is there. */
#include <stdio.h>

int main(int count, char **words) {
    fgmp_uio device;
    fgmp_engine engine;
    int status;
    if (count != 2) {
        fprintf(stderr, "usage: %s /dev/uioN\n", words[0]);
        return 2;
    }
    if (fgmp_uio_open(&device, words[1])) {
        perror(words[1]);
        return 1;
    }
    status = fgmp_open(&engine, fgmp_uio_bus(&device));
    if (status == FGMP_OK) {
        printf("fgmp engine: %u lanes, %u rows, %u slots, K up to %u, N of packed results up to %u\n", (unsigned)engine.lanes,
               (unsigned)engine.rows, (unsigned)engine.slots, (unsigned)engine.k_max, (unsigned)engine.n_max);
    } else {
        fprintf(stderr, "%s: %s\n", words[1], status == FGMP_NO_ENGINE ? "no fgmp engine" : "another register map");
    }
    fgmp_uio_close(&device);
    return status == FGMP_OK ? 0 : 1;
}
#endif
