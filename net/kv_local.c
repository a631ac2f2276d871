/* net/kv_local.c - the registry inside the process: what etcd means, in tables of fixed size.
 *
 * A change takes effect inside dip_kv_send, a range is read inside dip_kv_next; both are atomic
 * because one thread owns everything. A lease that ends takes its keys with it in one revision.
 * History is a ring: the oldest revision makes room and counts as compacted. Replies point into a
 * snapshot of the handle, which shares the values with the store by counting references. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/kv.h"

enum { CALLS_MAX = 64, COUNT_DEFAULT = 4096, TTL_S_MAX = 9000000 };

struct blob {
    int reference_count;
    size_t bytes;
    char data[]; /* [bytes + 1] */
};

struct record {
    char key[DIP_KV_KEY_BYTES];
    struct blob *value; /* NULL when is_deleted */
    int64_t create_revision, mod_revision, lease;
    bool is_deleted;
};

struct lease {
    int64_t id, ttl_ns, expires_ns;
};

struct dip_kv_store {
    struct dip_kv_store_options options;
    int64_t now_ns, revision, compact_revision, lease_serial;
    struct record *keys; /* [key_count_max], the first key_count are live, in no order */
    int key_count;
    struct lease *leases; /* [lease_count_max], as above */
    int lease_count;
    struct record *events;            /* ring [event_count_max] */
    uint64_t event_first, event_next; /* absolute; modulo for the place */
};

struct call {
    uint64_t id; /* 0 = free */
    uint64_t order;
    enum dip_kv_kind kind;
    char key[DIP_KV_KEY_BYTES];
    struct dip_kv_reply reply; /* ready, but for RANGE and WATCH */
    struct record found;       /* of a PUT or DELETE that was not done; value counted */
    bool has_found;
    int64_t watch_revision; /* the next one to tell */
    bool is_told;           /* the watch said that it stands */
};

struct handle {
    struct dip_kv kv;
    struct dip_kv_store *store;
    uint64_t order;
    struct call calls[CALLS_MAX];
    struct record *snapshot; /* [key_count_max + 1] */
    struct dip_kv_entry *entries;
    int snapshot_count;
};

static void blob_drop(struct blob *blob)
{
    if (blob && --blob->reference_count == 0)
        free(blob);
}

static void record_copy(struct record *to, const struct record *from)
{
    *to = *from;
    if (to->value)
        to->value->reference_count++;
}

static bool begins_with(const char *key, const char *prefix)
{
    return strncmp(key, prefix, strlen(prefix)) == 0;
}

/* ---- the store ---- */

enum dip_status dip_kv_store_new(const struct dip_kv_store_options *options,
                                 struct dip_kv_store **ret_store)
{
    struct dip_kv_store *store = calloc(1, sizeof *store);
    if (!store)
        return DIP_NO_MEMORY;
    int *counts[] = {&store->options.key_count_max, &store->options.lease_count_max,
                     &store->options.event_count_max};
    store->options = *options;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (*counts[i] <= 0)
            *counts[i] = COUNT_DEFAULT;
    store->revision = 1;
    store->keys = calloc((size_t)store->options.key_count_max, sizeof *store->keys);
    store->leases = calloc((size_t)store->options.lease_count_max, sizeof *store->leases);
    store->events = calloc((size_t)store->options.event_count_max, sizeof *store->events);
    if (!store->keys || !store->leases || !store->events) {
        dip_kv_store_free(store);
        return DIP_NO_MEMORY;
    }
    *ret_store = store;
    return DIP_OK;
}

static struct record *event_at(struct dip_kv_store *store, uint64_t number)
{
    return &store->events[number % (uint64_t)store->options.event_count_max];
}

/* Forgets the oldest event; its revision and those before are compacted from now on. */
static void event_forget(struct dip_kv_store *store)
{
    struct record *event = event_at(store, store->event_first++);
    if (event->mod_revision >= store->compact_revision)
        store->compact_revision = event->mod_revision + 1;
    blob_drop(event->value);
    *event = (struct record){0};
}

void dip_kv_store_free(struct dip_kv_store *store)
{
    if (!store)
        return;
    for (int i = 0; store->keys && i < store->key_count; i++)
        blob_drop(store->keys[i].value);
    while (store->event_first < store->event_next)
        event_forget(store);
    free(store->keys);
    free(store->leases);
    free(store->events);
    free(store);
}

void dip_kv_store_compact(struct dip_kv_store *store, int64_t revision)
{
    while (store->event_first < store->event_next &&
           event_at(store, store->event_first)->mod_revision < revision)
        event_forget(store);
    if (revision > store->compact_revision && revision <= store->revision)
        store->compact_revision = revision;
}

int64_t dip_kv_store_revision(const struct dip_kv_store *store)
{
    return store->revision;
}

static void event_push(struct dip_kv_store *store, const struct record *record)
{
    if (store->event_next - store->event_first == (uint64_t)store->options.event_count_max)
        event_forget(store);
    record_copy(event_at(store, store->event_next++), record);
}

static struct record *key_find(struct dip_kv_store *store, const char *key)
{
    for (int i = 0; i < store->key_count; i++)
        if (strcmp(store->keys[i].key, key) == 0)
            return &store->keys[i];
    return NULL;
}

/* The revision was raised by the caller: several keys may go in one. */
static void key_remove(struct dip_kv_store *store, struct record *record)
{
    struct record event = {.mod_revision = store->revision, .is_deleted = true};
    memcpy(event.key, record->key, sizeof event.key);
    event_push(store, &event);
    struct blob *value = record->value;
    struct record *last = &store->keys[--store->key_count];
    memmove(record, last, sizeof *record); /* they may be the same */
    blob_drop(value);
}

static struct lease *lease_find(struct dip_kv_store *store, int64_t id)
{
    for (int i = 0; i < store->lease_count; i++)
        if (store->leases[i].id == id)
            return &store->leases[i];
    return NULL;
}

static void lease_end(struct dip_kv_store *store, struct lease *lease)
{
    int64_t id = lease->id;
    bool is_raised = false;
    *lease = store->leases[--store->lease_count];
    for (int i = 0; i < store->key_count;) {
        if (store->keys[i].lease != id) {
            i++;
            continue;
        }
        if (!is_raised)
            store->revision++;
        is_raised = true;
        key_remove(store, &store->keys[i]);
    }
}

void dip_kv_store_advance(struct dip_kv_store *store, int64_t now_ns)
{
    if (now_ns > store->now_ns)
        store->now_ns = now_ns;
    for (int i = 0; i < store->lease_count;) {
        if (store->leases[i].expires_ns <= store->now_ns)
            lease_end(store, &store->leases[i]);
        else
            i++;
    }
}

/* ---- what each request does; fills status and facts of the reply ---- */

static enum dip_status fail(struct dip_kv_reply *reply, enum dip_status status, const char *text)
{
    size_t bytes = strlen(text);
    dip_assert(bytes < sizeof reply->text);
    memcpy(reply->text, text, bytes + 1);
    return status;
}

static enum dip_status do_grant(struct dip_kv_store *store, const struct dip_kv_request *request,
                                struct dip_kv_reply *reply)
{
    if (request->ttl_s <= 0 || request->ttl_s > TTL_S_MAX)
        return fail(reply, DIP_INVALID, "the lease's time is not possible");
    if (store->lease_count == store->options.lease_count_max)
        return fail(reply, DIP_LIMIT, "too many leases");
    struct lease *lease = &store->leases[store->lease_count++];
    lease->id = ++store->lease_serial;
    lease->ttl_ns = request->ttl_s * DIP_SECOND_NS;
    lease->expires_ns = store->now_ns + lease->ttl_ns;
    reply->lease = lease->id;
    reply->ttl_s = request->ttl_s;
    return DIP_OK;
}

static enum dip_status do_keepalive(struct dip_kv_store *store,
                                    const struct dip_kv_request *request,
                                    struct dip_kv_reply *reply)
{
    struct lease *lease = lease_find(store, request->lease);
    if (!lease)
        return fail(reply, DIP_NOT_FOUND, "the lease is gone");
    lease->expires_ns = store->now_ns + lease->ttl_ns;
    reply->lease = lease->id;
    reply->ttl_s = lease->ttl_ns / DIP_SECOND_NS;
    return DIP_OK;
}

static enum dip_status do_revoke(struct dip_kv_store *store, const struct dip_kv_request *request,
                                 struct dip_kv_reply *reply)
{
    struct lease *lease = lease_find(store, request->lease);
    if (!lease)
        return fail(reply, DIP_NOT_FOUND, "the lease is gone");
    lease_end(store, lease);
    return DIP_OK;
}

static bool conditions_hold(struct dip_kv_store *store, const struct dip_kv_request *request)
{
    const struct record *record = key_find(store, request->key);
    if (request->condition == DIP_KV_IF_ABSENT && record)
        return false;
    if (request->condition == DIP_KV_IF_REVISION &&
        (record ? record->mod_revision : 0) != request->revision)
        return false;
    if (!request->guard_key)
        return true;
    const struct record *guard = key_find(store, request->guard_key);
    return (guard ? guard->create_revision : 0) == request->guard_revision;
}

static enum dip_status do_put(struct dip_kv_store *store, const struct dip_kv_request *request,
                              struct dip_kv_reply *reply)
{
    if (!conditions_hold(store, request))
        return DIP_OK;
    if (request->lease != 0 && !lease_find(store, request->lease))
        return fail(reply, DIP_NOT_FOUND, "the lease is gone");
    struct record *record = key_find(store, request->key);
    if (!record && store->key_count == store->options.key_count_max)
        return fail(reply, DIP_LIMIT, "too many keys");
    struct blob *value = malloc(sizeof *value + request->value_bytes + 1);
    if (!value)
        return fail(reply, DIP_NO_MEMORY, "out of memory");
    value->reference_count = 1;
    value->bytes = request->value_bytes;
    if (value->bytes > 0)
        memcpy(value->data, request->value, value->bytes);
    value->data[value->bytes] = '\0';
    store->revision++;
    if (!record) {
        record = &store->keys[store->key_count++];
        *record = (struct record){.create_revision = store->revision};
        memcpy(record->key, request->key, strlen(request->key) + 1);
    }
    blob_drop(record->value);
    record->value = value;
    record->mod_revision = store->revision;
    record->lease = request->lease;
    event_push(store, record);
    reply->is_done = true;
    return DIP_OK;
}

static enum dip_status do_delete(struct dip_kv_store *store, const struct dip_kv_request *request,
                                 struct dip_kv_reply *reply)
{
    reply->is_done = conditions_hold(store, request);
    struct record *record = key_find(store, request->key);
    if (!reply->is_done || !record)
        return DIP_OK;
    store->revision++;
    key_remove(store, record);
    return DIP_OK;
}

/* ---- a handle ---- */

static struct handle *handle_of(struct dip_kv *kv)
{
    return (struct handle *)kv; /* its first member */
}

static void call_free(struct call *call)
{
    if (call->has_found)
        blob_drop(call->found.value);
    *call = (struct call){0};
}

static struct call *call_find(struct handle *h, uint64_t id)
{
    for (int i = 0; i < CALLS_MAX; i++)
        if (h->calls[i].id == id)
            return &h->calls[i];
    return NULL;
}

typedef enum dip_status (*do_fn)(struct dip_kv_store *store, const struct dip_kv_request *request,
                                 struct dip_kv_reply *reply);
static const do_fn doers[DIP_KV_KIND_COUNT] = {
    [DIP_KV_GRANT] = do_grant, [DIP_KV_KEEPALIVE] = do_keepalive, [DIP_KV_REVOKE] = do_revoke,
    [DIP_KV_PUT] = do_put,     [DIP_KV_DELETE] = do_delete,
};

static enum dip_status local_send(struct dip_kv *kv, int64_t now_ns,
                                  const struct dip_kv_request *request)
{
    struct handle *h = handle_of(kv);
    struct dip_kv_store *store = h->store;
    dip_assert(!call_find(h, request->id));
    struct call *call = call_find(h, 0);
    if (!call)
        return DIP_BUSY;
    dip_kv_store_advance(store, now_ns);
    *call = (struct call){.id = request->id, .order = h->order++, .kind = request->kind};
    call->reply = (struct dip_kv_reply){.id = request->id, .kind = request->kind, .is_last = true};
    if (request->key)
        memcpy(call->key, request->key, strlen(request->key) + 1);
    call->watch_revision = request->revision > 0 ? request->revision : store->revision + 1;
    if (!doers[request->kind])
        return DIP_OK;
    call->reply.status = doers[request->kind](store, request, &call->reply);
    call->reply.revision = store->revision;
    bool is_write = request->kind == DIP_KV_PUT || request->kind == DIP_KV_DELETE;
    const struct record *found = is_write ? key_find(store, request->key) : NULL;
    if (found && !call->reply.status && !call->reply.is_done) {
        record_copy(&call->found, found);
        call->has_found = true;
    }
    return DIP_OK;
}

static void local_cancel(struct dip_kv *kv, uint64_t id)
{
    struct call *call = id != 0 ? call_find(handle_of(kv), id) : NULL;
    if (call)
        call_free(call);
}

static void local_poll(struct dip_kv *kv, int64_t now_ns, int64_t wait_ns)
{
    (void)wait_ns;
    dip_kv_store_advance(handle_of(kv)->store, now_ns);
}

static void snapshot_clear(struct handle *h)
{
    while (h->snapshot_count > 0)
        blob_drop(h->snapshot[--h->snapshot_count].value);
}

static void snapshot_push(struct handle *h, const struct record *record)
{
    dip_assert(h->snapshot_count <= h->store->options.key_count_max);
    struct record *copy = &h->snapshot[h->snapshot_count];
    record_copy(copy, record);
    h->entries[h->snapshot_count++] = (struct dip_kv_entry){
        .key = copy->key,
        .value = copy->value ? copy->value->data : "",
        .value_bytes = copy->value ? copy->value->bytes : 0,
        .create_revision = copy->create_revision,
        .mod_revision = copy->mod_revision,
        .lease = copy->lease,
        .is_deleted = copy->is_deleted,
    };
}

static void reply_range(struct handle *h, struct call *call)
{
    for (int i = 0; i < h->store->key_count; i++)
        if (begins_with(h->store->keys[i].key, call->key))
            snapshot_push(h, &h->store->keys[i]);
    call->reply.revision = h->store->revision;
}

/* Events up to the snapshot's size; what one revision changed is told together. */
static void push_events(struct handle *h, struct call *call)
{
    struct dip_kv_store *store = h->store;
    int count_at_revision = 0; /* in the snapshot before the revision at hand */
    int64_t revision = 0;
    for (uint64_t i = store->event_first; i < store->event_next; i++) {
        const struct record *event = event_at(store, i);
        if (event->mod_revision < call->watch_revision || !begins_with(event->key, call->key))
            continue;
        if (event->mod_revision != revision)
            count_at_revision = h->snapshot_count;
        revision = event->mod_revision;
        if (h->snapshot_count > store->options.key_count_max) {
            while (h->snapshot_count > count_at_revision)
                blob_drop(h->snapshot[--h->snapshot_count].value);
            call->watch_revision = revision;
            return;
        }
        snapshot_push(h, event);
    }
    call->watch_revision = store->revision + 1;
}

/* Whether the watch has something to say now. */
static bool reply_watch(struct handle *h, struct call *call)
{
    struct dip_kv_store *store = h->store;
    struct dip_kv_reply *reply = &call->reply;
    reply->is_last = false;
    reply->status = DIP_OK;
    if (call->watch_revision < store->compact_revision) {
        reply->is_last = true;
        reply->revision = store->compact_revision;
        reply->status = fail(reply, DIP_STALE, "the history was compacted");
        return true;
    }
    if (call->watch_revision <= store->revision)
        push_events(h, call);
    bool is_news = h->snapshot_count > 0 || !call->is_told;
    call->is_told = true;
    reply->revision = call->watch_revision > 1 ? call->watch_revision - 1 : store->revision;
    return is_news;
}

static bool local_next(struct dip_kv *kv, int64_t now_ns, struct dip_kv_reply *ret_reply)
{
    struct handle *h = handle_of(kv);
    snapshot_clear(h);
    dip_kv_store_advance(h->store, now_ns);
    struct call *first = NULL; /* plain calls in order, then watches */
    for (int i = 0; i < CALLS_MAX; i++) {
        struct call *call = &h->calls[i];
        if (call->id != 0 && call->kind != DIP_KV_WATCH && (!first || call->order < first->order))
            first = call;
    }
    for (int i = 0; i < CALLS_MAX && !first; i++)
        if (h->calls[i].id != 0 && reply_watch(h, &h->calls[i]))
            first = &h->calls[i];
    if (!first)
        return false;
    if (first->kind == DIP_KV_RANGE)
        reply_range(h, first);
    if (first->has_found)
        snapshot_push(h, &first->found);
    *ret_reply = first->reply;
    ret_reply->entries = h->entries;
    ret_reply->entry_count = h->snapshot_count;
    if (first->reply.is_last)
        call_free(first);
    return true;
}

static void local_wake(struct dip_kv *kv)
{
    (void)kv; /* nobody ever waits */
}

static void local_close(struct dip_kv *kv)
{
    struct handle *h = handle_of(kv);
    if (h->snapshot)
        snapshot_clear(h);
    for (int i = 0; i < CALLS_MAX; i++)
        call_free(&h->calls[i]);
    free(h->snapshot);
    free(h->entries);
    free(h);
}

static const struct dip_kv_ops local_ops = {
    .send = local_send,
    .cancel = local_cancel,
    .poll = local_poll,
    .next = local_next,
    .wake = local_wake,
    .close = local_close,
};

enum dip_status dip_kv_store_open(struct dip_kv_store *store, struct dip_kv **ret_kv)
{
    struct handle *h = calloc(1, sizeof *h);
    if (!h)
        return DIP_NO_MEMORY;
    size_t count = (size_t)store->options.key_count_max + 1;
    h->kv.ops = &local_ops;
    h->store = store;
    h->snapshot = calloc(count, sizeof *h->snapshot);
    h->entries = calloc(count, sizeof *h->entries);
    if (!h->snapshot || !h->entries) {
        local_close(&h->kv);
        return DIP_NO_MEMORY;
    }
    *ret_kv = &h->kv;
    return DIP_OK;
}
