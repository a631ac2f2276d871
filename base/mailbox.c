/* base/mailbox.c - a ring of messages behind one mutex.
 *
 * Messages are rare (jobs, results, progress) next to the work they describe, so a mutex is the
 * whole design. Waits use the monotonic clock: a change of the wall clock moves no deadline. */
#include "base/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"

struct dip_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t is_changed; /* a message came or the box closed */
    size_t message_bytes;
    size_t message_count_max;
    size_t first_index; /* of the oldest message in `ring` */
    size_t message_count;
    bool is_closed;
    unsigned char *ring; /* message_count_max * message_bytes */
};

static bool condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return false;
    bool is_ready = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
                    pthread_cond_init(condition, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return is_ready;
}

enum dip_status dip_mailbox_new(size_t message_bytes, size_t message_count_max,
                                struct dip_mailbox **ret_mailbox)
{
    dip_assert(message_bytes > 0);
    dip_assert(message_count_max > 0);
    struct dip_mailbox *mailbox = calloc(1, sizeof *mailbox);
    if (!mailbox)
        return DIP_NO_MEMORY;
    mailbox->message_bytes = message_bytes;
    mailbox->message_count_max = message_count_max;
    mailbox->ring = calloc(message_count_max, message_bytes);
    if (!mailbox->ring || !condition_init(&mailbox->is_changed)) {
        free(mailbox->ring);
        free(mailbox);
        return DIP_NO_MEMORY;
    }
    pthread_mutex_init(&mailbox->lock, NULL); /* a plain mutex: cannot fail on Linux */
    *ret_mailbox = mailbox;
    return DIP_OK;
}

void dip_mailbox_free(struct dip_mailbox *mailbox)
{
    if (!mailbox)
        return;
    pthread_cond_destroy(&mailbox->is_changed);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox->ring);
    free(mailbox);
}

enum dip_status dip_mailbox_push(struct dip_mailbox *mailbox, const void *message)
{
    enum dip_status status = DIP_OK;
    pthread_mutex_lock(&mailbox->lock);
    if (mailbox->is_closed) {
        status = DIP_CANCELLED;
    } else if (mailbox->message_count == mailbox->message_count_max) {
        status = DIP_BUSY;
    } else {
        size_t index = (mailbox->first_index + mailbox->message_count) % mailbox->message_count_max;
        memcpy(mailbox->ring + index * mailbox->message_bytes, message, mailbox->message_bytes);
        mailbox->message_count++;
        pthread_cond_signal(&mailbox->is_changed);
    }
    pthread_mutex_unlock(&mailbox->lock);
    return status;
}

static struct timespec deadline_after(int64_t wait_ns)
{
    int64_t now_ns = dip_clock_now_ns();
    int64_t at_ns = wait_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + wait_ns;
    return (struct timespec){.tv_sec = (time_t)(at_ns / DIP_SECOND_NS),
                             .tv_nsec = (long)(at_ns % DIP_SECOND_NS)};
}

/* Returns once there is a message, the box is closed or the time is up. Holds the lock. */
static void wait_for_change(struct dip_mailbox *mailbox, int64_t wait_ns)
{
    if (wait_ns == 0)
        return;
    struct timespec deadline = {0};
    if (wait_ns > 0)
        deadline = deadline_after(wait_ns);
    int error = 0;
    while (mailbox->message_count == 0 && !mailbox->is_closed && error != ETIMEDOUT) {
        if (wait_ns < 0)
            pthread_cond_wait(&mailbox->is_changed, &mailbox->lock);
        else
            error = pthread_cond_timedwait(&mailbox->is_changed, &mailbox->lock, &deadline);
    }
}

enum dip_status dip_mailbox_pop(struct dip_mailbox *mailbox, int64_t wait_ns, void *ret_message)
{
    enum dip_status status = DIP_OK;
    pthread_mutex_lock(&mailbox->lock);
    wait_for_change(mailbox, wait_ns);
    if (mailbox->message_count > 0) {
        memcpy(ret_message, mailbox->ring + mailbox->first_index * mailbox->message_bytes,
               mailbox->message_bytes);
        mailbox->first_index = (mailbox->first_index + 1) % mailbox->message_count_max;
        mailbox->message_count--;
    } else {
        status = mailbox->is_closed ? DIP_CANCELLED : DIP_TIMEOUT;
    }
    pthread_mutex_unlock(&mailbox->lock);
    return status;
}

void dip_mailbox_close(struct dip_mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    mailbox->is_closed = true;
    pthread_cond_broadcast(&mailbox->is_changed);
    pthread_mutex_unlock(&mailbox->lock);
}
