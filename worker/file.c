/* worker/file.c - the file thread: pixels to PNG, off the device thread.
 *
 * The file says nothing of its making: the worker does not know the prompt. The coordinator puts
 * the texts in and takes the hash.
 *
 * Owns nothing but the work it was given; the buffer goes back when the file is made. */
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

static enum dip_status encode(const struct file_work *work, struct dip_message_picture *picture)
{
    int64_t begin_ns = dip_clock_now_ns();
    unsigned char *png = NULL;
    DIP_TRY(
        dip_png_encode(work->rgb, work->width, work->height, NULL, 0, &png, &picture->png.bytes));
    picture->png.data = png;
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
        enum dip_status status = dip_mailbox_push(w->rgb_buffers, &work.rgb);
        dip_assert(status == DIP_OK);
    }
    return NULL;
}
