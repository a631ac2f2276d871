/* worker/group.c - a worker as one rank of a tensor-parallel group.
 *
 *   waiting -- PREPARE_GROUP, rank 0: rendezvous open, GROUP_PREPARED -.
 *      |  <-------------------------------------------------------------'
 *      '------ FORM_GROUP: joins, loads its shard, GROUP_FORMED -------> formed
 *   formed --- DISSOLVE_GROUP, a lost rank, a larger epoch: GROUP_LOST > waiting
 *
 * Rank 0 of a formed group joins the coordinator's members and does AR jobs like any worker; its
 * steps are those of all ranks. The others follow and hear nothing of jobs here. When a group ends,
 * so do its jobs: the coordinator has their tokens and gives them out again. Without a coordinator
 * the group draws what it holds to the end; what is not done by then keeps its tokens.
 *
 * Everything is the device thread's. It looks at its messages between two steps, and while it waits
 * for rank 0, for its group or for jobs, so that it can always be told to stop. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ops/comm.h"
#include "worker/state.h"

/* A living rank may be late by a cold file's reading, not by more. */
#define LATE_NS_MAX (INT64_C(30) * DIP_SECOND_NS)
/* How long a rank listens to its group before it looks at its messages, and the other way round. */
#define FOLLOW_NS (INT64_C(20) * DIP_MS_NS)
#define LOOK_NS   (INT64_C(50) * DIP_MS_NS)

struct group {
    struct dip_message_group name; /* id, epoch, rank, size of the newest; epoch 0 = none yet */
    struct dip_comm_root *root;    /* rank 0: prepared */
    struct dip_comm *comm;         /* formed */
    struct dip_ar_engine *engine;  /* formed; of rank 0 also worker->ar */
    struct dip_message pending;
    bool has_pending;
};

enum dip_status dip__worker_group_new(struct dip_worker *w)
{
    dip_assert(w->options.roles == DIP_ROLE_AR);
    w->group = calloc(1, sizeof *w->group);
    return w->group ? DIP_OK : DIP_NO_MEMORY;
}

static void say(struct dip_worker *w, enum dip_message_kind kind, int missing_rank)
{
    struct dip_message message = {.kind = kind, .as.group = w->group->name};
    struct dip_message_group *as = &message.as.group;
    as->missing_rank = missing_rank;
    if (kind == DIP_MESSAGE_GROUP_PREPARED) {
        static_assert((int)DIP_COMM_ID_BYTES <= (int)DIP_GROUP_COMM_BYTES, "a message holds it");
        as->comm_id_bytes = DIP_COMM_ID_BYTES;
        memcpy(as->comm_id, dip_comm_root_id(w->group->root)->bytes, DIP_COMM_ID_BYTES);
    }
    dip__worker_post(w, &message);
}

/* ---- end ---- */

/* Frees everything of a version; the other ranks notice. The weights stay in the file's pages. */
static void take_down(struct dip_worker *w)
{
    struct group *group = w->group;
    if (w->ar)
        dip__worker_ar_part(w);
    if (group->comm)
        dip_comm_abort(group->comm);
    dip_ar_engine_free(group->engine);
    dip_comm_close(group->comm);
    dip_comm_root_close(group->root);
    group->engine = w->ar = NULL;
    group->comm = NULL;
    group->root = NULL;
}

static bool is_standing(const struct group *group)
{
    return group->root || group->comm;
}

static void lose(struct dip_worker *w, int missing_rank)
{
    if (w->group->comm)
        missing_rank = dip_comm_missing(w->group->comm);
    take_down(w);
    say(w, DIP_MESSAGE_GROUP_LOST, missing_rank);
}

void dip__worker_group_free(struct dip_worker *w)
{
    if (!w->group)
        return;
    take_down(w);
    if (w->group->has_pending)
        dip_message_release(&w->group->pending);
    free(w->group);
    w->group = NULL;
}

/* Another coordinator may count its versions anew; what the old one said cannot come any more. A
 * group that has something to draw stands until the next one is formed. */
void dip__worker_group_reset(struct dip_worker *w)
{
    if (!w->group)
        return;
    const struct dip_ar_engine *engine = w->group->engine;
    if (!engine || dip_ar_engine_live(engine) == 0)
        take_down(w);
    w->group->name.epoch = 0;
}

/* ---- forming ---- */

/* The newest version from here on; one that stands makes way. */
static void adopt(struct dip_worker *w, const struct dip_message_group *name)
{
    struct group *group = w->group;
    if (is_standing(group) && name->epoch > group->name.epoch)
        lose(w, -1);
    memcpy(group->name.id, name->id, sizeof group->name.id);
    group->name.epoch = name->epoch;
    group->name.rank = name->rank;
    group->name.size = name->size;
}

static void prepare(struct dip_worker *w, const struct dip_message_group *name)
{
    struct group *group = w->group;
    const char *address = w->options.group_address;
    struct dip_comm_root_options options = {.backend = address ? "tcp" : "shm", .address = address};
    if (is_standing(group) && name->epoch == group->name.epoch)
        return; /* said twice */
    adopt(w, name);
    enum dip_status status = dip_comm_root_open(&options, NULL, &group->root);
    say(w, status ? DIP_MESSAGE_GROUP_LOST : DIP_MESSAGE_GROUP_PREPARED, -1);
}

/* Whether a message ends the forming that is under way; what does not is done at once. */
static bool ends_forming(struct dip_worker *w, struct dip_message *message)
{
    const struct group *group = w->group;
    bool is_ours = message->as.group.epoch >= group->name.epoch;
    switch (message->kind) {
    case DIP_MESSAGE_STOP:
    case DIP_MESSAGE_RESET:
    case DIP_MESSAGE_LEAVING:
        return true;
    case DIP_MESSAGE_PREPARE_GROUP:
    case DIP_MESSAGE_FORM_GROUP:
        return message->as.group.epoch > group->name.epoch;
    case DIP_MESSAGE_DISSOLVE_GROUP:
        return is_ours;
    default:
        return false;
    }
}

/* Looks at the messages while joining. */
static bool is_wanted(void *context)
{
    struct dip_worker *w = context;
    struct dip_message message;
    enum dip_status status = DIP_OK;
    while (!w->group->has_pending && !w->is_stopping &&
           !(status = dip_endpoint_receive(w->endpoint, 0, &message))) {
        if (ends_forming(w, &message)) {
            w->group->pending = message;
            w->group->has_pending = true;
        } else if (message.kind == DIP_MESSAGE_PREPARE_GROUP ||
                   message.kind == DIP_MESSAGE_FORM_GROUP ||
                   message.kind == DIP_MESSAGE_DISSOLVE_GROUP) {
            dip_message_release(&message); /* of a version before */
        } else {
            dip__worker_handle(w, &message);
        }
    }
    if (!w->group->has_pending && !w->is_stopping && status == DIP_CANCELLED)
        w->is_stopping = true;
    return !w->group->has_pending && !w->is_stopping;
}

bool dip__worker_group_pending(struct dip_worker *w, struct dip_message *ret_message)
{
    if (!w->group || !w->group->has_pending)
        return false;
    *ret_message = w->group->pending;
    w->group->has_pending = false;
    return true;
}

static enum dip_status join(struct dip_worker *w, const struct dip_message_group *form,
                            int *ret_unreached)
{
    struct group *group = w->group;
    struct dip_comm_id id;
    memcpy(id.bytes, form->comm_id, sizeof id.bytes);
    struct dip_comm_options options = {.id = &id,
                                       .root = group->root,
                                       .rank = form->rank,
                                       .count = form->size,
                                       .join_ns_max = form->timeout_ns,
                                       .wait_ns_max = LATE_NS_MAX,
                                       .is_wanted = is_wanted,
                                       .context = w,
                                       .ret_unreached = ret_unreached};
    DIP_TRY(dip_comm_open(&options, NULL, &group->comm));
    const struct dip_worker_options *o = &w->options;
    struct dip_ar_engine_options engine = {.slot_count = o->ar_slots,
                                           .prompt_tokens_max = o->prompt_tokens_max,
                                           .image_tokens_max = o->image_tokens_max,
                                           .prefill_rows_max = PREFILL_ROWS_MAX,
                                           .comm = group->comm};
    return dip_ar_engine_new(o->model, w->device, &engine, NULL, &group->engine);
}

static bool is_formable(const struct group *group, const struct dip_message_group *form)
{
    if (form->size < 1 || form->size > DIP_COMM_RANKS_MAX || form->rank < 0 ||
        form->rank >= form->size || form->comm_id_bytes != DIP_COMM_ID_BYTES)
        return false;
    return form->rank > 0 || group->root; /* rank 0 has prepared this version */
}

static void form(struct dip_worker *w, const struct dip_message_group *name)
{
    struct group *group = w->group;
    if (group->comm && name->epoch == group->name.epoch)
        return; /* said twice */
    adopt(w, name);
    int unreached = -1;
    if (!is_formable(group, name) || join(w, name, &unreached)) {
        lose(w, unreached);
        return;
    }
    dip_comm_root_close(group->root);
    group->root = NULL;
    dip__worker_ar_forget_parted(w);
    say(w, DIP_MESSAGE_GROUP_FORMED, -1);
    if (name->rank > 0)
        return;
    w->ar = group->engine;
    dip__worker_join(w);
}

void dip__worker_group_command(struct dip_worker *w, const struct dip_message *message)
{
    const struct dip_message_group *name = &message->as.group;
    if (!w->group || w->is_device_dead || name->epoch < w->group->name.epoch)
        return;
    if (message->kind == DIP_MESSAGE_PREPARE_GROUP)
        prepare(w, name);
    else if (message->kind == DIP_MESSAGE_FORM_GROUP)
        form(w, name);
    else if (is_standing(w->group))
        lose(w, -1);
}

/* ---- work ---- */

int64_t dip__worker_group_wait_ns(const struct dip_worker *w, int64_t wait_ns)
{
    const struct group *group = w->group;
    if (!group || !group->comm)
        return wait_ns;
    int64_t wait_ns_max = group->name.rank > 0 ? 0 : LOOK_NS; /* others wait in their group */
    return wait_ns < 0 || wait_ns > wait_ns_max ? wait_ns_max : wait_ns;
}

bool dip__worker_group_is_busy(const struct dip_worker *w)
{
    const struct group *group = w->group;
    return group && group->engine && !w->ar && dip_ar_engine_live(group->engine) > 0;
}

/* BUSY: nothing to do. */
static enum dip_status advance(struct dip_worker *w)
{
    struct group *group = w->group;
    if (!w->ar)
        return dip_ar_engine_follow(group->engine, FOLLOW_NS);
    DIP_TRY(dip_comm_error(group->comm)); /* a rank may be lost while there is no step to fail */
    return dip_ar_engine_live(w->ar) > 0 ? dip__worker_ar_step(w) : DIP_BUSY;
}

static bool is_of_group(enum dip_status status)
{
    return status == DIP_UNREACHABLE || status == DIP_TIMEOUT || status == DIP_CANCELLED ||
           status == DIP_CORRUPT;
}

static int images_of(const struct dip_worker *w)
{
    return dip_ar_engine_live(w->ar ? w->ar : w->group->engine);
}

enum dip_status dip__worker_group_turn(struct dip_worker *w, bool *ret_is_step, int *ret_images)
{
    *ret_is_step = false;
    if (!w->group->comm)
        return DIP_OK;
    int before = images_of(w); /* those that the step ends are among them, */
    enum dip_status status = advance(w);
    if (status == DIP_BUSY)
        return DIP_OK;
    *ret_is_step = !status;
    if (!status) {
        int after = images_of(w); /* and those of which another rank hears with it only here */
        *ret_images = after > before ? after : before;
        return DIP_OK;
    }
    lose(w, -1);
    return is_of_group(status) ? DIP_OK : status;
}
