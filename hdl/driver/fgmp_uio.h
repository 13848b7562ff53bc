/* The engine's registers and interrupt under Linux, by UIO (CONFIG_UIO_PDRV_GENIRQ): a bus for fgmp_driver.h.
 * Streams are moved by DMAs, which have drivers of their own. */
#ifndef FGMP_UIO_H
#define FGMP_UIO_H

#include "fgmp_driver.h"

typedef struct {
    int file;
    volatile uint32_t *registers;
} fgmp_uio;

/* Open a device such as "/dev/uio0" and map its registers. 0, or -1 with errno set. */
int fgmp_uio_open(fgmp_uio *device, const char *path);

/* Unmap and close. */
void fgmp_uio_close(fgmp_uio *device);

/* What fgmp_open takes; `device` must stay where it is. */
fgmp_bus fgmp_uio_bus(fgmp_uio *device);

/* Let the end of a GEMM raise the interrupt, and sleep until it does, at most so many milliseconds (-1: forever). 1 if
 * it came, 0 if time ran out, -1 with errno set. Then ask fgmp_wait, which clears the events: the interrupt is a level.
 * One that came before, and was polled for, may still count: ask again if fgmp_wait says FGMP_TIMEOUT. */
int fgmp_uio_wait(fgmp_uio *device, int milliseconds);

#endif
