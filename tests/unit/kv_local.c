/* tests/unit/kv_local.c - the registry inside the process means what etcd means: revisions,
 * conditions, leases, watches, compaction; and a watcher's copy never drifts from the store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "net/kv.h"

struct registry {
    struct dip_kv_store *store;
    struct dip_kv *kv;
    uint64_t serial;
    int64_t now_ns;
};

static struct registry registry_open(struct dip_kv_store_options options)
{
    struct registry r = {0};
    assert_int_equal(dip_kv_store_new(&options, &r.store), DIP_OK);
    assert_int_equal(dip_kv_store_open(r.store, &r.kv), DIP_OK);
    return r;
}

static void registry_close(struct registry *r)
{
    dip_kv_close(r->kv);
    dip_kv_store_free(r->store);
}

static struct dip_kv_reply ask(struct registry *r, struct dip_kv_request request)
{
    struct dip_kv_reply reply = {0};
    request.id = ++r->serial;
    assert_int_equal(dip_kv_send(r->kv, r->now_ns, &request), DIP_OK);
    dip_kv_poll(r->kv, r->now_ns, 0);
    assert_true(dip_kv_next(r->kv, r->now_ns, &reply));
    assert_int_equal(reply.id, request.id);
    return reply;
}

static struct dip_kv_request put(const char *key, const char *value, int64_t lease)
{
    return (struct dip_kv_request){.kind = DIP_KV_PUT,
                                   .key = key,
                                   .value = value,
                                   .value_bytes = strlen(value),
                                   .lease = lease};
}

static void conditions_and_revisions(void **state)
{
    (void)state;
    struct registry r = registry_open((struct dip_kv_store_options){0});
    struct dip_kv_request create = put("/a/1", "one", 0);
    create.condition = DIP_KV_IF_ABSENT;
    struct dip_kv_reply reply = ask(&r, create);
    assert_true(reply.is_done);
    int64_t born = reply.revision;
    reply = ask(&r, create); /* the second one learns who was first */
    assert_int_equal(reply.status, DIP_OK);
    assert_false(reply.is_done);
    assert_int_equal(reply.entry_count, 1);
    assert_string_equal(reply.entries[0].value, "one");
    assert_int_equal(reply.entries[0].create_revision, born);
    assert_int_equal(reply.revision, born);

    struct dip_kv_request swap = put("/a/1", "two", 0);
    swap.condition = DIP_KV_IF_REVISION;
    swap.revision = born;
    reply = ask(&r, swap);
    assert_true(reply.is_done);
    assert_int_equal(reply.revision, born + 1);
    assert_false(ask(&r, swap).is_done);

    struct dip_kv_request guarded = put("/a/2", "x", 0);
    guarded.guard_key = "/a/1";
    guarded.guard_revision = born + 1; /* mod, not create: refused */
    assert_false(ask(&r, guarded).is_done);
    guarded.guard_revision = born;
    assert_true(ask(&r, guarded).is_done);

    reply = ask(&r, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/a/"});
    assert_int_equal(reply.entry_count, 2);
    reply = ask(&r, (struct dip_kv_request){.kind = DIP_KV_DELETE, .key = "/a/1"});
    assert_true(reply.is_done);
    reply = ask(&r, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/a/"});
    assert_int_equal(reply.entry_count, 1);
    assert_string_equal(reply.entries[0].key, "/a/2");
    registry_close(&r);
}

static void leases_take_their_keys(void **state)
{
    (void)state;
    struct registry r = registry_open((struct dip_kv_store_options){0});
    int64_t lease = ask(&r, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 5}).lease;
    assert_true(ask(&r, put("/k/1", "1", lease)).is_done);
    assert_true(ask(&r, put("/k/2", "2", lease)).is_done);
    assert_true(ask(&r, put("/k/3", "3", 0)).is_done);
    assert_int_equal(ask(&r, put("/k/4", "4", lease + 1)).status, DIP_NOT_FOUND);
    int64_t before = dip_kv_store_revision(r.store);

    r.now_ns = 4 * DIP_SECOND_NS;
    struct dip_kv_request beat = {.kind = DIP_KV_KEEPALIVE, .lease = lease};
    assert_int_equal(ask(&r, beat).ttl_s, 5);
    r.now_ns = 8 * DIP_SECOND_NS;
    assert_int_equal(
        ask(&r, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/k/"}).entry_count, 3);
    r.now_ns = 9 * DIP_SECOND_NS;
    struct dip_kv_reply reply =
        ask(&r, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/k/"});
    assert_int_equal(reply.entry_count, 1);
    assert_int_equal(reply.revision, before + 1); /* both in one revision */
    assert_int_equal(ask(&r, beat).status, DIP_NOT_FOUND);
    registry_close(&r);
}

static void watches_resume_and_are_compacted(void **state)
{
    (void)state;
    struct registry r = registry_open((struct dip_kv_store_options){.event_count_max = 4});
    int64_t from = dip_kv_store_revision(r.store) + 1;
    ask(&r, put("/w/1", "1", 0));
    ask(&r, put("/other", "1", 0));
    ask(&r, put("/w/2", "2", 0));
    struct dip_kv_request watch = {.kind = DIP_KV_WATCH, .key = "/w/", .revision = from};
    struct dip_kv_reply reply = ask(&r, watch);
    assert_false(reply.is_last);
    assert_int_equal(reply.entry_count, 2);
    assert_string_equal(reply.entries[0].key, "/w/1");
    assert_int_equal(reply.revision, from + 2);
    assert_false(dip_kv_next(r.kv, r.now_ns, &reply));

    uint64_t id = r.serial;
    ask(&r, (struct dip_kv_request){.kind = DIP_KV_DELETE, .key = "/w/1"});
    assert_true(dip_kv_next(r.kv, r.now_ns, &reply));
    assert_int_equal(reply.id, id);
    assert_true(reply.entries[0].is_deleted);
    dip_kv_cancel(r.kv, id);
    ask(&r, put("/w/1", "1", 0));
    assert_false(dip_kv_next(r.kv, r.now_ns, &reply));

    reply = ask(&r, watch); /* five events in a ring of four */
    assert_true(reply.is_last);
    assert_int_equal(reply.status, DIP_STALE);
    assert_int_equal(reply.revision, from + 1);
    dip_kv_store_compact(r.store, dip_kv_store_revision(r.store));
    reply = ask(&r, watch);
    assert_int_equal(reply.status, DIP_STALE);
    watch.revision = dip_kv_store_revision(r.store);
    reply = ask(&r, watch); /* the revision of the compaction itself is still there */
    assert_int_equal(reply.status, DIP_OK);
    assert_int_equal(reply.entry_count, 1);
    registry_close(&r);
}

static void ceilings_are_refused(void **state)
{
    (void)state;
    struct registry r =
        registry_open((struct dip_kv_store_options){.key_count_max = 2, .lease_count_max = 1});
    char key[DIP_KV_KEY_BYTES + 1];
    memset(key, 'k', sizeof key);
    key[DIP_KV_KEY_BYTES] = '\0';
    struct dip_kv_request request = put(key, "v", 0);
    request.id = 1000;
    assert_int_equal(dip_kv_send(r.kv, 0, &request), DIP_LIMIT);
    assert_int_equal(ask(&r, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 1}).status,
                     DIP_OK);
    assert_int_equal(ask(&r, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 1}).status,
                     DIP_LIMIT);
    assert_int_equal(ask(&r, (struct dip_kv_request){.kind = DIP_KV_GRANT}).status, DIP_INVALID);
    assert_true(ask(&r, put("a", "", 0)).is_done);
    assert_true(ask(&r, put("b", "", 0)).is_done);
    assert_int_equal(ask(&r, put("c", "", 0)).status, DIP_LIMIT);
    request.key = "a";
    enum dip_status status = DIP_OK;
    int sent = 0;
    for (; sent < 1000 && !status; sent++, request.id++)
        status = dip_kv_send(r.kv, 0, &request);
    assert_int_equal(status, DIP_BUSY);
    assert_true(sent > 32);
    registry_close(&r);
}

/* ---- a watcher's copy under random changes ---- */

enum { KEYS = 12 };

struct copy {
    char values[KEYS][8]; /* "" = absent */
    int64_t revision;
};

static int index_of(const char *key)
{
    return key[3] - 'a';
}

static void copy_apply(struct copy *copy, const struct dip_kv_reply *reply)
{
    for (int i = 0; i < reply->entry_count; i++) {
        const struct dip_kv_entry *entry = &reply->entries[i];
        assert_true(entry->mod_revision > copy->revision || reply->kind == DIP_KV_RANGE);
        char *value = copy->values[index_of(entry->key)];
        memset(value, 0, sizeof copy->values[0]); /* compared as bytes below */
        snprintf(value, sizeof copy->values[0], "%s", entry->value);
    }
    copy->revision = reply->revision;
}

static void random_change(struct registry *r, uint32_t word, int64_t *lease)
{
    char key[8];
    char value[8];
    snprintf(key, sizeof key, "/r/%c", (char)('a' + word / 16 % KEYS));
    snprintf(value, sizeof value, "%u", word % 9999 + 1);
    switch (word % 8) {
    case 0:
        *lease = ask(r, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 2}).lease;
        break;
    case 1:
        ask(r, (struct dip_kv_request){.kind = DIP_KV_DELETE, .key = key});
        break;
    case 2:
        ask(r, (struct dip_kv_request){.kind = DIP_KV_REVOKE, .lease = *lease});
        break;
    case 3:
        r->now_ns += DIP_SECOND_NS;
        break;
    default:
        ask(r, put(key, value, word % 2 ? *lease : 0));
    }
}

/* The watcher has a handle of its own and looks now and then; when it comes too late it lists. */
static void watcher_never_drifts(void **state)
{
    (void)state;
    int compactions = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct dip_rng_key rng = {.seed = seed, .purpose = DIP_RNG_TEST};
        struct registry r = registry_open(
            (struct dip_kv_store_options){.event_count_max = 20, .lease_count_max = 512});
        struct registry w = {.store = r.store};
        assert_int_equal(dip_kv_store_open(r.store, &w.kv), DIP_OK);
        struct copy copy = {.revision = 1};
        struct dip_kv_request watch = {.kind = DIP_KV_WATCH, .key = "/r/", .id = 1, .revision = 2};
        int64_t lease = 0;
        assert_int_equal(dip_kv_send(w.kv, 0, &watch), DIP_OK);
        for (uint64_t step = 0; step < 400; step++) {
            uint32_t words[4];
            dip_rng_words(&rng, step, words);
            random_change(&r, words[0], &lease);
            if (words[1] % 7 != 0)
                continue;
            struct dip_kv_reply reply;
            while (dip_kv_next(w.kv, r.now_ns, &reply)) {
                if (reply.status == DIP_STALE) {
                    compactions++;
                    copy = (struct copy){0};
                    watch.id++;
                    w.serial = 1000 + step;
                    w.now_ns = r.now_ns;
                    reply = ask(&w, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/r/"});
                    watch.revision = reply.revision + 1;
                    copy_apply(&copy, &reply);
                    assert_int_equal(dip_kv_send(w.kv, r.now_ns, &watch), DIP_OK);
                    continue;
                }
                copy_apply(&copy, &reply);
            }
            struct copy truth = {0};
            reply = ask(&r, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/r/"});
            copy_apply(&truth, &reply);
            assert_memory_equal(copy.values, truth.values, sizeof copy.values);
        }
        dip_kv_close(w.kv);
        registry_close(&r);
    }
    assert_true(compactions > 5); /* or the test did not meet what it is for */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conditions_and_revisions),
        cmocka_unit_test(leases_take_their_keys),
        cmocka_unit_test(watches_resume_and_are_compacted),
        cmocka_unit_test(ceilings_are_refused),
        cmocka_unit_test(watcher_never_drifts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
