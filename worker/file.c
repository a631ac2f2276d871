/* worker/file.c - the file thread: pixels to PNG, off the device thread.
 *
 * Owns nothing but the work it was given; the buffer goes back when the file is made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "worker/state.h"

enum { TEXTS_MAX = 32 };

/* key, zero, value, zero, ... as png texts. */
static int texts_read(const struct dip_payload *payload, struct dip_png_text *texts)
{
    const char *at = payload->data;
    const char *end = at ? at + payload->bytes : at;
    int count = 0;
    while (at < end && count < TEXTS_MAX) {
        const char *key = at;
        const char *value = key + strnlen(key, (size_t)(end - key)) + 1;
        if (value >= end || !memchr(value, 0, (size_t)(end - value)))
            break; /* the sender's last pair is cut: leave it out */
        texts[count++] = (struct dip_png_text){key, value};
        at = value + strlen(value) + 1;
    }
    return count;
}

static enum dip_status encode(const struct file_work *work, struct dip_message_picture *picture)
{
    struct dip_png_text texts[TEXTS_MAX];
    int text_count = texts_read(&work->texts, texts);
    int64_t begin_ns = dip_clock_now_ns();
    unsigned char *png = NULL;
    DIP_TRY(dip_png_encode(work->rgb, work->width, work->height, texts, text_count, &png,
                           &picture->png.bytes));
    picture->png.data = png;
    if (work->kind == FILE_IMAGE)
        DIP_TRY(dip_sha256_hex(png, picture->png.bytes, picture->sha256));
    picture->encode_ns = dip_clock_now_ns() - begin_ns;
    return DIP_OK;
}

static void work_do(struct dip_worker *w, const struct file_work *work)
{
    struct dip_message message = {.kind = work->kind == FILE_IMAGE ? DIP_MESSAGE_IMAGE
                                                                   : DIP_MESSAGE_PREVIEW,
                                  .job_id = work->job_id,
                                  .as.picture = {.steps_done = work->steps_done,
                                                 .width = work->width,
                                                 .height = work->height,
                                                 .diffusion_ns = work->diffusion_ns,
                                                 .vae_ns = work->vae_ns}};
    enum dip_status status = encode(work, &message.as.picture);
    if (status) {
        char text[DIP_FAILURE_BYTES];
        snprintf(text, sizeof text, "the picture could not be encoded: %s",
                 dip_status_text(status));
        dip_message_release(&message);
        dip__worker_fail(w, work->job_id, status, text);
        return;
    }
    dip__worker_post(w, &message);
}

void *dip__worker_file_main(void *worker)
{
    struct dip_worker *w = worker;
    struct file_work work;
    while (!dip_mailbox_pop(w->file_work, -1, &work) && work.kind != FILE_STOP) {
        work_do(w, &work);
        free(work.texts.data);
        enum dip_status status = dip_mailbox_push(w->rgb_buffers, &work.rgb);
        dip_assert(status == DIP_OK);
    }
    return NULL;
}
