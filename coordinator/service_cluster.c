/* coordinator/service_cluster.c - diptych.v1.ClusterService: who is there, what waits, drain. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/front.h"
#include "coordinator/worker_message.h"
#include "proto/time.h"

#define METHOD DIP_FRONT_METHOD_CLUSTER

enum {
    PAGE_DEFAULT = 100,
    PAGE_MAX = 1000,
    TOKEN_BYTES = 129,
    GRACE_DEFAULT_S = 60,
    GRACE_MAX_S = 3600,
};

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text; /* protobuf-c's fields are not const */
}

/* Workers and jobs are known to the leader alone; false and the call ended with who that is when it
 * is another one. */
static bool knows(struct dip_coordinator_daemon *d, struct dip_rpc_call *call)
{
    struct dip_error error;
    if (d->is_leading || dip__front_takes_requests(d, &error))
        return true;
    dip__reply_error(d, METHOD, call, &error);
    return false;
}

/* ---- lists in pages ---- */

/* One page under way: so many rows of the list's own kind, and the messages that lie in them. */
struct page {
    int size, count; /* rows that it may have, and has */
    void *rows, **list;
    char token[TOKEN_BYTES]; /* of the next page; "" = this is the last one */
};

static void page_close(struct page *page)
{
    free(page->rows);
    free(page->list);
}

/* False when the call has been ended: another one leads, the size asked for is beyond the limit, or
 * memory is short. */
static bool page_open(struct dip_coordinator_daemon *d, struct dip_rpc_call *call, uint32_t size,
                      size_t row_bytes, struct page *ret_page)
{
    struct dip_error error;
    struct page page = {.size = size ? (int)size : PAGE_DEFAULT};
    if (!knows(d, call))
        return false;
    if (size > PAGE_MAX) {
        dip__error_field(&error, "page_size", "%u, must be 1 to %d, or 0 for %d", size, PAGE_MAX,
                         PAGE_DEFAULT);
        dip__reply_error(d, METHOD, call, &error);
        return false;
    }
    page.rows = calloc((size_t)page.size, row_bytes);
    page.list = calloc((size_t)page.size, sizeof(void *));
    if (!page.rows || !page.list) {
        page_close(&page);
        dip__error_bug(d, &error, "no memory for the list");
        dip__reply_error(d, METHOD, call, &error);
        return false;
    }
    *ret_page = page;
    return true;
}

/* What the lists do not have in common. */
struct list {
    const ProtobufCMessageDescriptor *request;
    size_t row_bytes;
    uint32_t (*size_of)(const void *request); /* its page_size */
    /* Fills the page and answers; false and the error when the request asks for none. */
    bool (*answer)(struct dip_coordinator_daemon *d, struct dip_rpc_call *call, const void *request,
                   const struct caller *caller, struct page *page, struct dip_error *error);
};

static void on_list(struct dip_coordinator_daemon *d, struct dip_rpc_call *call, const void *data,
                    size_t bytes, const struct list *list)
{
    struct caller caller;
    struct page page;
    struct dip_error error;
    void *r = dip__reply_read(d, METHOD, call, DIP_SCOPE_READ, list->request, data, bytes, &caller);
    if (!r)
        return;
    if (page_open(d, call, list->size_of(r), list->row_bytes, &page)) {
        if (!list->answer(d, call, r, &caller, &page, &error))
            dip__reply_error(d, METHOD, call, &error);
        page_close(&page);
    }
    dip_proto_free(r);
}

/* ---- workers as messages ---- */

static Diptych__V1__Role role_of(uint32_t roles)
{
    bool is_ar = roles & DIP_ROLE_AR, is_diffusion = roles & DIP_ROLE_DIFFUSION;
    return is_ar && is_diffusion ? DIPTYCH__V1__ROLE__ROLE_BOTH
           : is_ar               ? DIPTYCH__V1__ROLE__ROLE_AR
           : is_diffusion        ? DIPTYCH__V1__ROLE__ROLE_DIFFUSION
                                 : DIPTYCH__V1__ROLE__ROLE_UNSPECIFIED;
}

static bool role_is_good(Diptych__V1__Role role, struct dip_error *error)
{
    if ((unsigned)role <= DIPTYCH__V1__ROLE__ROLE_BOTH)
        return true;
    return dip__error_field(error, "role",
                            "%d, must be 2 (AR), 3 (DIFFUSION), 4 (BOTH) or left out", (int)role);
}

static int64_t unix_of(int64_t at_ns)
{
    return dip_clock_unix_ns() - (dip_clock_now_ns() - at_ns);
}

void dip__worker_message(const struct dip_worker_view *view, struct worker_message *ret_message)
{
    Diptych__V1__Worker *w = &ret_message->worker;
    diptych__v1__worker__init(w);
    w->name = text_of(view->facts.name);
    w->role = role_of(view->facts.roles);
    w->state = (Diptych__V1__WorkerState)view->state; /* the same order */
    w->group = text_of(view->group);
    w->rank = (uint32_t)view->rank;
    w->group_size = (uint32_t)view->group_size;
    w->incarnation = view->facts.incarnation;
    w->version = text_of(view->facts.version);
    w->determinism_fingerprint = text_of(view->fingerprint);
    w->slots = (uint32_t)view->slots;
    w->slots_busy = (uint32_t)view->slots_busy;
    w->steps_total = view->steps_total;
    w->detail = text_of(view->detail);
    w->address = text_of(view->facts.address);
    dip_timestamp_encode(unix_of(view->since_ns), &ret_message->since);
    w->since = &ret_message->since;
    if (view->last_progress_ns == 0)
        return;
    dip_timestamp_encode(unix_of(view->last_progress_ns), &ret_message->last_progress);
    w->last_progress = &ret_message->last_progress;
}

/* ---- pools ---- */

struct pools {
    Diptych__V1__Pool pools[DIP_POOL_COUNT], *list[DIP_POOL_COUNT];
    Google__Protobuf__Duration waits[DIP_POOL_COUNT];
    struct dip_pool_view views[DIP_POOL_COUNT];
};

static void fill_pools(const struct dip_coordinator_daemon *d, struct pools *p)
{
    for (int i = 0; i < DIP_POOL_COUNT; i++) {
        struct dip_pool_view *view = &p->views[i];
        Diptych__V1__Pool *pool = &p->pools[i];
        *view = dip_coordinator_daemon_pool(d, (enum dip_pool)i);
        diptych__v1__pool__init(pool);
        p->list[i] = pool;
        pool->role =
            i == DIP_POOL_AR ? DIPTYCH__V1__ROLE__ROLE_AR : DIPTYCH__V1__ROLE__ROLE_DIFFUSION;
        pool->queued = (uint32_t)view->queued;
        pool->running = (uint32_t)view->running;
        pool->ready = (uint32_t)view->ready;
        pool->draining = (uint32_t)view->draining;
        pool->wanted = (uint32_t)view->wanted;
        pool->reason = view->reason;
        dip_duration_encode(view->oldest_wait_ns, &p->waits[i]);
        pool->oldest_wait = &p->waits[i];
    }
}

static void on_get_cluster(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    struct pools pools;
    void *r = dip__reply_read(d, METHOD, call, DIP_SCOPE_READ,
                              &diptych__v1__get_cluster_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    Diptych__V1__GetClusterResponse response = DIPTYCH__V1__GET_CLUSTER_RESPONSE__INIT;
    if (d->is_leading)
        fill_pools(d, &pools);
    response.cluster_id = d->cluster_id;
    response.leader = (char *)dip__front_leader(d);
    response.epoch = d->epoch;
    response.etcd_revision = d->registry_revision;
    response.degraded = d->is_degraded;
    response.degraded_reason = d->degraded_why;
    response.pools = pools.list;
    response.n_pools = d->is_leading ? DIP_POOL_COUNT : 0; /* rather none than empty ones */
    dip__reply(d, METHOD, call, &response.base);
    dip_proto_free(r);
}

static void on_scale_hint(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    struct pools pools;
    void *r =
        dip__reply_read(d, METHOD, call, DIP_SCOPE_READ,
                        &diptych__v1__get_scale_hint_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    Diptych__V1__GetScaleHintResponse response = DIPTYCH__V1__GET_SCALE_HINT_RESPONSE__INIT;
    if (knows(d, call)) {
        fill_pools(d, &pools);
        response.pools = pools.list;
        response.n_pools = DIP_POOL_COUNT;
        dip__reply(d, METHOD, call, &response.base);
    }
    dip_proto_free(r);
}

/* ---- ListWorkers ---- */

static int by_name(const void *a, const void *b)
{
    const struct roster_entry *const *left = a, *const *right = b;
    return strcmp((*left)->view.facts.name, (*right)->view.facts.name);
}

struct worker_row {
    struct dip_worker_view view;
    struct worker_message message;
};

/* Those asked for that come after the token, by name; how many. */
static int find_workers(const struct dip_coordinator_daemon *d,
                        const Diptych__V1__ListWorkersRequest *r,
                        const struct roster_entry **ret_entries)
{
    int count = 0;
    for (int i = 0; i < d->roster.entry_count; i++) {
        const struct roster_entry *entry = &d->roster.entries[i];
        if (entry->is_used && dip__roster_has_role(entry->view.facts.roles, r->role) &&
            strcmp(entry->view.facts.name, r->page_token) > 0)
            ret_entries[count++] = entry;
    }
    qsort(ret_entries, (size_t)count, sizeof(struct roster_entry *), by_name);
    return count;
}

static void list_workers(const struct dip_coordinator_daemon *d, struct page *page,
                         const struct roster_entry **entries, int count)
{
    struct worker_row *rows = page->rows;
    while (page->count < count && page->count < page->size) {
        struct worker_row *row = &rows[page->count];
        row->view = dip__roster_view(d, entries[page->count]);
        dip__worker_message(&row->view, &row->message);
        page->list[page->count++] = &row->message.worker;
    }
    if (count > page->count)
        snprintf(page->token, sizeof page->token, "%s", rows[page->count - 1].view.facts.name);
}

static uint32_t workers_size(const void *request)
{
    return ((const Diptych__V1__ListWorkersRequest *)request)->page_size;
}

static bool answer_workers(struct dip_coordinator_daemon *d, struct dip_rpc_call *call,
                           const void *request, const struct caller *caller, struct page *page,
                           struct dip_error *error)
{
    const Diptych__V1__ListWorkersRequest *r = request;
    Diptych__V1__ListWorkersResponse response = DIPTYCH__V1__LIST_WORKERS_RESPONSE__INIT;
    (void)caller;
    if (!role_is_good(r->role, error))
        return false;
    list_workers(d, page, d->roster.sorted, find_workers(d, r, d->roster.sorted));
    response.workers = (Diptych__V1__Worker **)page->list;
    response.n_workers = (size_t)page->count;
    response.next_page_token = page->token;
    dip__reply(d, METHOD, call, &response.base);
    return true;
}

static void on_list_workers(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    static const struct list list = {&diptych__v1__list_workers_request__descriptor,
                                     sizeof(struct worker_row), workers_size, answer_workers};
    on_list(daemon, call, data, bytes, &list);
}

/* ---- WatchWorkers ---- */

static void on_watch_open(void *daemon, struct dip_rpc_call *call)
{
    struct dip_coordinator_daemon *d = daemon;
    struct roster_watch *watch = calloc(1, sizeof *watch);
    if (watch)
        watch->told = calloc((size_t)d->roster.entry_count, sizeof *watch->told);
    if (!watch || !watch->told) {
        free(watch);
        dip_rpc_call_bind(call, NULL);
        dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_RESOURCE_EXHAUSTED,
                                                           .message = "out of memory"});
        return;
    }
    watch->daemon = d;
    watch->call = call;
    watch->next = d->roster.watches;
    d->roster.watches = watch;
    dip_rpc_call_bind(call, watch);
}

static void on_watch(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct roster_watch *watch = context;
    struct caller caller;
    if (!watch)
        return;
    Diptych__V1__WatchWorkersRequest *r =
        dip__reply_read(watch->daemon, METHOD, call, DIP_SCOPE_READ,
                        &diptych__v1__watch_workers_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    struct dip_error error;
    if (!role_is_good(r->role, &error)) {
        dip__reply_error(watch->daemon, METHOD, call, &error);
    } else if (knows(watch->daemon, call)) {
        watch->role = r->role;
        watch->has_begun = true;
        dip__roster_watch_pump(watch);
    }
    dip_proto_free(r);
}

static void on_watch_writable(void *context, struct dip_rpc_call *call)
{
    (void)call;
    if (context)
        dip__roster_watch_pump(context);
}

static void on_watch_close(void *context, struct dip_rpc_call *call,
                           const struct dip_rpc_status *status)
{
    (void)call;
    (void)status;
    struct roster_watch *watch = context;
    if (!watch)
        return;
    struct roster_watch **at = &watch->daemon->roster.watches;
    while (*at != watch)
        at = &(*at)->next;
    *at = watch->next;
    free(watch->told);
    free(watch);
}

void dip__roster_end(struct dip_coordinator_daemon *d)
{
    struct dip_error error;
    dip_assert(d->is_draining || !d->is_leading);
    bool takes = dip__front_takes_requests(d, &error);
    dip_assert(!takes);
    for (struct roster_watch *watch = d->roster.watches; watch; watch = watch->next)
        dip__reply_error(d, METHOD, watch->call, &error);
}

/* ---- Drain, Undrain ---- */

static struct roster_entry *find_worker(struct dip_coordinator_daemon *d, struct dip_rpc_call *call,
                                        const char *name)
{
    struct dip_error error;
    struct roster_entry *entry = dip__roster_find(&d->roster, name);
    if (entry)
        return entry;
    if (!knows(d, call))
        return NULL;
    if (!name[0]) {
        dip__error_field(&error, "worker", "is empty; ListWorkers names those there are");
    } else {
        dip_error_set(&error, DIP_REASON_WORKER_UNKNOWN,
                      "there is no worker \"%s\"; ListWorkers names those there are", name);
        dip_error_fact(&error, "worker", "%s", name);
    }
    dip__reply_error(d, METHOD, call, &error);
    return NULL;
}

static void on_drain(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    int64_t grace_ns = 0;
    Diptych__V1__DrainRequest *r =
        dip__reply_read(d, METHOD, call, DIP_SCOPE_ADMIN, &diptych__v1__drain_request__descriptor,
                        data, bytes, &caller);
    if (!r)
        return;
    Diptych__V1__DrainResponse response = DIPTYCH__V1__DRAIN_RESPONSE__INIT;
    bool is_good =
        dip_duration_decode(r->grace, &grace_ns) && grace_ns <= GRACE_MAX_S * DIP_SECOND_NS;
    struct roster_entry *entry = NULL;
    if (is_good) {
        entry = find_worker(d, call, r->worker);
    } else {
        struct dip_error error;
        dip__error_field(&error, "grace", "must be a duration of 0 s to 1 h; 0 or left out: 1 min");
        dip__reply_error(d, METHOD, call, &error);
    }
    if (entry) {
        struct worker_message message;
        if (grace_ns == 0)
            grace_ns = GRACE_DEFAULT_S * DIP_SECOND_NS;
        dip__roster_drain(d, entry, true, grace_ns, r->reason);
        if (d->on_drain)
            d->on_drain(d->on_drain_context, r->worker, true, r->reason);
        struct dip_worker_view view = dip__roster_view(d, entry);
        dip__worker_message(&view, &message);
        response.worker = &message.worker;
        response.jobs_left =
            (uint32_t)dip_scheduler_member(dip_core_scheduler(d->core), view.address).jobs;
        dip__reply(d, METHOD, call, &response.base);
    }
    dip_proto_free(r);
}

static void on_undrain(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    Diptych__V1__UndrainRequest *r =
        dip__reply_read(d, METHOD, call, DIP_SCOPE_ADMIN, &diptych__v1__undrain_request__descriptor,
                        data, bytes, &caller);
    if (!r)
        return;
    Diptych__V1__UndrainResponse response = DIPTYCH__V1__UNDRAIN_RESPONSE__INIT;
    struct roster_entry *entry = find_worker(d, call, r->worker);
    if (entry) {
        struct worker_message message;
        dip__roster_drain(d, entry, false, 0, "");
        if (d->on_drain)
            d->on_drain(d->on_drain_context, r->worker, false, "");
        struct dip_worker_view view = dip__roster_view(d, entry);
        dip__worker_message(&view, &message);
        response.worker = &message.worker;
        dip__reply(d, METHOD, call, &response.base);
    }
    dip_proto_free(r);
}

/* ---- ListJobs ---- */

enum { JOB_WORKERS_MAX = 64 };

struct job_row {
    Diptych__V1__Job job;
    Google__Protobuf__Duration age;
    char *workers[JOB_WORKERS_MAX];
};

static size_t job_workers(const struct dip_coordinator_daemon *d, const struct record *record,
                          char **names)
{
    uint32_t members[JOB_WORKERS_MAX];
    int count = dip_core_members(d->core, record->core_id, members, JOB_WORKERS_MAX);
    for (int i = 0; i < count; i++)
        names[i] = text_of(d->roster.entries[members[i]].view.facts.name);
    return (size_t)count;
}

static void job_fill(const struct dip_coordinator_daemon *d, struct record *record,
                     struct job_row *row)
{
    Diptych__V1__Job *job = &row->job;
    diptych__v1__job__init(job);
    dip_duration_encode(dip_clock_now_ns() - record->admitted_ns, &row->age);
    job->request_id = record->id;
    job->tenant = record->tenant;
    job->phase = text_of(dip_stage_name(record->stage));
    job->age = &row->age;
    job->attempt = (uint32_t)record->attempts;
    job->workers = row->workers;
    job->n_workers = job_workers(d, record, row->workers);
}

static void list_jobs(const struct dip_coordinator_daemon *d, struct page *page,
                      const Diptych__V1__ListJobsRequest *r, const struct caller *caller)
{
    uint64_t after = strtoull(r->page_token, NULL, 10), last = 0;
    bool sees_all = caller->scopes & DIP_SCOPE_ADMIN;
    struct job_row *rows = page->rows;
    for (struct record *record = d->book.first_run; record; record = record->after) {
        bool is_wanted = record->is_admitted && record->core_id > after &&
                         (sees_all || strcmp(record->tenant, caller->tenant) == 0) &&
                         (!r->tenant[0] || strcmp(record->tenant, r->tenant) == 0);
        if (!is_wanted)
            continue;
        if (page->count == page->size) {
            snprintf(page->token, sizeof page->token, "%llu", (unsigned long long)last);
            break;
        }
        job_fill(d, record, &rows[page->count]);
        page->list[page->count] = &rows[page->count].job;
        page->count++;
        last = record->core_id;
    }
}

static uint32_t jobs_size(const void *request)
{
    return ((const Diptych__V1__ListJobsRequest *)request)->page_size;
}

static bool answer_jobs(struct dip_coordinator_daemon *d, struct dip_rpc_call *call,
                        const void *request, const struct caller *caller, struct page *page,
                        struct dip_error *error)
{
    const Diptych__V1__ListJobsRequest *r = request;
    Diptych__V1__ListJobsResponse response = DIPTYCH__V1__LIST_JOBS_RESPONSE__INIT;
    if (r->page_token[strspn(r->page_token, "0123456789")])
        return dip__error_field(error, "page_token", "is none that a page has ended with");
    list_jobs(d, page, r, caller);
    response.jobs = (Diptych__V1__Job **)page->list;
    response.n_jobs = (size_t)page->count;
    response.next_page_token = page->token;
    dip__reply(d, METHOD, call, &response.base);
    return true;
}

static void on_list_jobs(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    static const struct list list = {&diptych__v1__list_jobs_request__descriptor,
                                     sizeof(struct job_row), jobs_size, answer_jobs};
    on_list(daemon, call, data, bytes, &list);
}

void dip__service_cluster(struct dip_coordinator_daemon *d)
{
    static const struct {
        const char *path;
        enum dip_rpc_kind kind;
        struct dip_rpc_handler handler;
    } rows[] = {
        {"/diptych.v1.ClusterService/GetCluster", DIP_RPC_UNARY, {.on_message = on_get_cluster}},
        {"/diptych.v1.ClusterService/ListWorkers", DIP_RPC_UNARY, {.on_message = on_list_workers}},
        {"/diptych.v1.ClusterService/WatchWorkers",
         DIP_RPC_SERVER_STREAM,
         {on_watch_open, on_watch, NULL, on_watch_writable, on_watch_close}},
        {"/diptych.v1.ClusterService/Drain", DIP_RPC_UNARY, {.on_message = on_drain}},
        {"/diptych.v1.ClusterService/Undrain", DIP_RPC_UNARY, {.on_message = on_undrain}},
        {"/diptych.v1.ClusterService/GetScaleHint", DIP_RPC_UNARY, {.on_message = on_scale_hint}},
        {"/diptych.v1.ClusterService/ListJobs", DIP_RPC_UNARY, {.on_message = on_list_jobs}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        dip__service_add(d, METHOD, rows[i].path, rows[i].kind, &rows[i].handler);
}
