/* worker/file.c - the file thread: pixels to PNG, off the device thread.
 *
 * The file says nothing of its making: the worker does not know the prompt. The coordinator puts
 * the texts in and takes the hash.
 *
 * Owns the work that it was given, and the newest files: a coordinator that comes after one that
 * died may ask for them again. The oldest go when there are too many, and each when it is told to.
 */
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

/* ---- files that are kept ---- */

enum { FINAL_BYTES_MAX = 64 << 20 };

struct final {
    uint64_t handle; /* 0 = free */
    struct dip_message_picture picture;
};

struct finals {
    struct final list[PICTURES_MAX];
    size_t bytes;
};

static struct final *final_find(struct finals *f, uint64_t handle)
{
    for (int i = 0; i < PICTURES_MAX; i++)
        if (f->list[i].handle == handle)
            return &f->list[i];
    return NULL;
}

static void final_free(struct finals *f, struct final *final)
{
    f->bytes -= final->picture.png.bytes;
    free(final->picture.png.data);
    final->picture.png.data = NULL;
    final->picture.png.bytes = 0;
    final->handle = 0;
}

/* The oldest make room; one that finds none is not kept. */
static void final_keep(struct finals *f, uint64_t handle, const struct dip_message_picture *picture)
{
    size_t bytes = picture->png.bytes;
    struct final *place;
    while (bytes <= FINAL_BYTES_MAX &&
           (!(place = final_find(f, 0)) || f->bytes + bytes > FINAL_BYTES_MAX)) {
        struct final *oldest = NULL;
        for (int i = 0; i < PICTURES_MAX; i++)
            if (f->list[i].handle != 0 && (!oldest || f->list[i].handle < oldest->handle))
                oldest = &f->list[i];
        final_free(f, oldest);
    }
    if (bytes > FINAL_BYTES_MAX)
        return;
    struct dip_payload copy = dip__payload_copy(picture->png.data, bytes);
    if (!copy.data)
        return;
    *place = (struct final){.handle = handle, .picture = *picture};
    place->picture.png = copy;
    f->bytes += bytes;
}

static void picture_say(struct dip_worker *w, enum dip_message_kind kind, uint64_t job_id,
                        const struct dip_message_picture *picture)
{
    struct dip_message message = {.kind = kind, .job_id = job_id, .as.picture = *picture};
    if (job_id != 0)
        dip__worker_post(w, &message);
    else
        dip_message_release(&message); /* of a job that is held */
}

static void say_again(struct dip_worker *w, struct finals *f, const struct file_work *work)
{
    const struct final *final = final_find(f, work->handle);
    struct dip_message_picture picture = {.steps_done = 0};
    if (final) {
        picture = final->picture;
        picture.png = dip__payload_copy(final->picture.png.data, final->picture.png.bytes);
    }
    if (picture.png.data)
        picture_say(w, DIP_MESSAGE_IMAGE, work->job_id, &picture);
    else
        dip__worker_fail(w, work->job_id, DIP_CANCELLED, "handed back: the picture is not kept");
}

/* ---- work ---- */

static void picture_make(struct dip_worker *w, struct finals *f, const struct file_work *work)
{
    bool is_image = work->kind == FILE_IMAGE;
    struct dip_message_picture picture = {.steps_done = work->steps_done,
                                          .width = work->width,
                                          .height = work->height,
                                          .diffusion_ns = work->diffusion_ns,
                                          .vae_ns = work->vae_ns};
    enum dip_status status = encode(work, &picture);
    if (status) {
        char text[DIP_FAILURE_BYTES];
        snprintf(text, sizeof text, "the picture could not be encoded: %s",
                 dip_status_text(status));
        free(picture.png.data);
        dip__worker_fail(w, work->job_id, status, text);
        return;
    }
    if (is_image && work->handle != 0)
        final_keep(f, work->handle, &picture);
    picture_say(w, is_image ? DIP_MESSAGE_IMAGE : DIP_MESSAGE_PREVIEW, work->job_id, &picture);
}

static void work_do(struct dip_worker *w, struct finals *f, const struct file_work *work)
{
    if (work->kind == FILE_FORGET) {
        struct final *final = final_find(f, work->handle);
        if (final)
            final_free(f, final);
        return;
    }
    if (work->kind == FILE_AGAIN)
        say_again(w, f, work);
    else
        picture_make(w, f, work);
    enum dip_status status = dip_mailbox_push(w->rgb_buffers, &work->rgb);
    dip_assert(status == DIP_OK);
}

void *dip__worker_file_main(void *worker)
{
    struct dip_worker *w = worker;
    struct finals finals = {.bytes = 0};
    struct file_work work;
    while (!dip_mailbox_pop(w->file_work, -1, &work) && work.kind != FILE_STOP)
        work_do(w, &finals, &work);
    for (int i = 0; i < PICTURES_MAX; i++)
        final_free(&finals, &finals.list[i]);
    return NULL;
}
