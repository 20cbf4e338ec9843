// A mock of the CUDA driver, so that the real pycuda and the project's device code run without a GPU.
//
// Device memory is host memory. A stream is a queue that runs only when something waits for it, so memory that is freed or
// changed too early is seen. The rules of contexts, stream capture and lifetimes are checked; what breaks one is a violation.
// The mock is stricter than a driver where the driver's documentation promises nothing. It shows the order of calls and the
// lifetime of memory. It shows nothing about TensorRT, and nothing about speed.
//
// This file: the ledger, failures on request, the lock.

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mock.h"

#define TOTAL_BYTES (8L << 30)

Ledger ledger;
static char texts[1 << 16];
static long fail_at = -1, fail_from = -1, taken;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

int mock_lock(void) {
    pthread_mutex_lock(&mutex);
    return 1;
}

void mock_unlock(int *locked) {
    (void)locked;
    pthread_mutex_unlock(&mutex);
}

void mock_wait(pthread_cond_t *condition) { pthread_cond_wait(condition, &mutex); }

void violation(const char *format, ...) {
    va_list arguments;
    size_t used = strlen(texts);
    ledger.violations++;
    va_start(arguments, format);
    vsnprintf(texts + used, sizeof texts - used, format, arguments);
    va_end(arguments);
    strncat(texts, "\n", sizeof texts - strlen(texts) - 1);
}

// Count an allocation of any kind. It is refused if the test asked for that, or if the GPU's memory is full.
int refuse_allocation(size_t device_bytes) {
    long number = ledger.allocations++;
    if (number == fail_at || (fail_from >= 0 && number >= fail_from)) return 1;
    return device_bytes && ledger.device_bytes + taken + (long)device_bytes > TOTAL_BYTES;
}

// ---- called by the tests

const Ledger *mock_ledger(void) {
    LOCKED;
    ledger.waiting_ops = 0;
    for (CUstream s = all_streams; s; s = s->next)
        for (Op *op = s->queue.first; op; op = op->next) ledger.waiting_ops++;
    return &ledger;
}

const char *mock_violations(void) { return texts; }

void mock_forget(void) {
    LOCKED;
    texts[0] = 0;
    ledger.violations = ledger.allocations = ledger.launches = ledger.pageable_copies = 0;
    fail_at = fail_from = -1;
    taken = 0;
}

// Refuse the allocation of this number, counted from now on; with `and_later`, all that follow too.
void mock_refuse(long number, int and_later) {
    LOCKED;
    ledger.allocations = 0;
    fail_at = and_later ? -1 : number;
    fail_from = and_later ? number : -1;
}

// Memory of the GPU that another process has taken.
void mock_take(long bytes) {
    LOCKED;
    taken = bytes;
}

CUresult cuMemGetInfo(size_t *unused, size_t *total) {
    LOCKED;
    NEED_CONTEXT;
    long left = TOTAL_BYTES - taken - ledger.device_bytes;
    *total = TOTAL_BYTES;
    *unused = left > 0 ? (size_t)left : 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    (void)device;
    *bytes = TOTAL_BYTES;
    return CUDA_SUCCESS;
}
