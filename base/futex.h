/* base/futex.h - words and doorbells that processes share: what lock-step ranks wait on.
 *
 * Both live in memory that several threads or several processes have mapped, zeroed at first. A
 * word is published by one side and read by others. A bell lets its one owner sleep until any of
 * them changes something: ringing costs one load unless the owner sleeps.
 *
 *     owner:   heard = dip_bell_listen(bell);     others:  dip_word_set(word, value);
 *              look at the words again;                    dip_bell_ring(bell);
 *              dip_bell_wait(bell, heard, ns);
 *
 * The owner announces itself before it looks, the others publish before they ring: one of the two
 * sees the other, so no wake-up is lost. A process that dies while it sleeps leaves the bell
 * announced, which costs the others a system call and nothing else. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct dip_word {
    _Atomic uint32_t value;
};

/* What was written before a set is seen after a get that returns its value. */
static inline uint32_t dip_word_get(struct dip_word *word)
{
    return atomic_load_explicit(&word->value, memory_order_acquire);
}

static inline void dip_word_set(struct dip_word *word, uint32_t value)
{
    atomic_store(&word->value, value);
}

/* Only the first of several threads changes a zero; whether this call did. */
static inline bool dip_word_set_once(struct dip_word *word, uint32_t value)
{
    uint32_t zero = 0;
    return atomic_compare_exchange_strong(&word->value, &zero, value);
}

struct dip_bell {
    _Atomic uint32_t count;
    _Atomic uint32_t is_awaited;
};

/* Any thread of any process. */
void dip_bell_ring(struct dip_bell *bell);

/* The owner's thread only. Every listen ends in one wait or one leave. */
uint32_t dip_bell_listen(struct dip_bell *bell);
void dip_bell_leave(struct dip_bell *bell);

/* Returns when the bell has rung since `heard` or a signal came; look again, then. wait_ns > 0.
 * Errors: TIMEOUT. */
DIP_MUST_USE enum dip_status dip_bell_wait(struct dip_bell *bell, uint32_t heard, int64_t wait_ns);

/* Tells the processor that this is a waiting loop. */
static inline void dip_spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}
