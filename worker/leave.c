/* worker/leave.c - being told to stop: a broken stream, an operator's drain, the process's end.
 *
 *   RESET     the coordinator counts this worker as lost: every job is held or goes (held.c),
 * without a word about it DRAIN     the coordinator gives no more work; what runs longer than the
 * grace is handed back LEAVING   the same, asked for by this process, which exits when it is
 * drained: nothing runs, no hinge is kept for anybody, every picture has been sent
 *
 * A job that comes all the same while the worker leaves was on its way before the coordinator heard
 * of it, and is done. The coordinator answers LEAVING with DRAIN, after which nothing more is on
 * its way; one that does not is given LEAVE_HEARD_NS. */
#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

#define LEAVE_HEARD_NS (INT64_C(500) * DIP_MS_NS)

static bool has_job(const struct dip_worker *w)
{
    for (int i = 0; i < w->options.hinge_slots; i++)
        if (w->ar_jobs[i].tag.id != 0 && !w->ar_jobs[i].is_parted)
            return true;
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        if (w->diffusion_jobs[i].tag.id != 0 && w->diffusion_jobs[i].has_command)
            return true;
    return dip__worker_group_is_busy(w);
}

/* With every buffer in hand the file thread has said all it had to say. */
static bool files_take(struct dip_worker *w, int64_t wait_ns)
{
    unsigned char *rgb[FILE_BUFFERS];
    int count = 0;
    while (count < FILE_BUFFERS && !dip_mailbox_pop(w->rgb_buffers, wait_ns, &rgb[count]))
        count++;
    for (int i = 0; i < count; i++) {
        enum dip_status status = dip_mailbox_push(w->rgb_buffers, &rgb[i]);
        dip_assert(status == DIP_OK); /* each has its place */
    }
    return count == FILE_BUFFERS;
}

void dip__worker_reset(struct dip_worker *w, const struct dip_message *message)
{
    struct dip_message answer = {.kind = DIP_MESSAGE_RESET, .job_id = message->job_id};
    bool is_quiet = files_take(w, -1); /* a picture that comes late would be another job's */
    dip_assert(is_quiet);
    dip__worker_hold(w, message->as.reset.epoch);
    dip__worker_group_reset(w);
    w->hand_back_ns = 0;
    answer.as.reset.held = dip__worker_held_list(w);
    dip__worker_post(w, &answer);
    if (!w->group) /* a group joins when it is formed */
        dip__worker_join(w);
}

void dip__worker_drain(struct dip_worker *w, const struct dip_message *message)
{
    w->is_leave_heard = w->is_leaving;
    if (!w->is_leaving) /* else the process's own grace counts */
        w->hand_back_ns = dip_clock_now_ns() + message->as.grace.grace_ns;
}

void dip__worker_undrain(struct dip_worker *w)
{
    if (!w->is_leaving)
        w->hand_back_ns = 0;
}

void dip__worker_leave(struct dip_worker *w, const struct dip_message *message)
{
    struct dip_message leaving = *message;
    int64_t now_ns = dip_clock_now_ns();
    int64_t hand_back_ns = now_ns + message->as.grace.grace_ns;
    if (!w->is_leaving) {
        w->leaving_ns = now_ns;
        dip__worker_post(w, &leaving);
    }
    if (!w->is_leaving || hand_back_ns < w->hand_back_ns)
        w->hand_back_ns = hand_back_ns; /* asking again can only shorten the grace */
    w->is_leaving = true;
}

static void hand_back(struct dip_worker *w)
{
    static const char text[] = "handed back: the worker is being drained";
    for (int i = 0; i < w->options.hinge_slots; i++)
        if (w->ar_jobs[i].tag.id != 0) {
            dip__worker_fail(w, w->ar_jobs[i].tag.id, DIP_CANCELLED, text);
            dip__worker_ar_drop(w, &w->ar_jobs[i]);
        }
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        if (w->diffusion_jobs[i].tag.id != 0) {
            if (w->diffusion_jobs[i].has_command)
                dip__worker_fail(w, w->diffusion_jobs[i].tag.id, DIP_CANCELLED, text);
            dip__worker_diffusion_drop(w, &w->diffusion_jobs[i]);
        }
}

void dip__worker_leave_step(struct dip_worker *w)
{
    if (!w->is_leaving && w->hand_back_ns == 0)
        return;
    int64_t now_ns = dip_clock_now_ns();
    if (w->hand_back_ns != 0 && now_ns >= w->hand_back_ns) {
        hand_back(w);
        if (!w->is_leaving)
            w->hand_back_ns = 0; /* what comes after that is wanted */
    }
    bool is_heard = w->is_leave_heard || now_ns - w->leaving_ns >= LEAVE_HEARD_NS;
    if (w->is_leaving && is_heard && !has_job(w) && files_take(w, 0))
        dip_flag_raise(&w->is_drained);
}

void dip__worker_load_show(struct dip_worker *w)
{
    struct dip_member_load *load = w->options.load;
    if (!load)
        return;
    bool is_dead = w->is_device_dead;
    uint64_t hinges = 0;
    for (int i = 0; i < w->options.hinge_slots; i++)
        hinges += w->ar_jobs[i].hinge.data != NULL;
    dip_counter_set(&load->hinges_held, hinges);
    dip_counter_set(&load->ar_busy, w->ar && !is_dead ? (uint64_t)dip_ar_engine_live(w->ar) : 0);
    dip_counter_set(&load->diffusion_busy, w->diffusion && !is_dead
                                               ? (uint64_t)dip_diffusion_engine_live(w->diffusion)
                                               : 0);
}
