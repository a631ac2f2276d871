/* tests/unit/registry.c - values as JSON and back, and a registry over the store inside the
 * process, on a loop. Real etcd: tests/e2e/etcd_registry.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/registry.h"

enum { PATIENCE_S = 60 };

static const struct dip_registry_member worker = {
    .id = "gpu-1.a",
    .address = "10.0.0.7:50052",
    .roles = DIP_ROLE_AR | DIP_ROLE_DIFFUSION,
    .device = "NVIDIA H200 \"x\"",
    .model = "blip3o-next",
    .ar_slots = 4,
    .diffusion_slots = 2,
};

/* ---- values ---- */

static void members_survive_the_trip(void **state)
{
    (void)state;
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_member back = {0};
    assert_int_equal(dip_registry_encode_member(&worker, value), DIP_OK);
    assert_non_null(strstr(value, "\"roles\":[\"ar\",\"diffusion\"]"));
    assert_int_equal(dip_registry_decode_member("gpu-1.a", value, NULL, &back), DIP_OK);
    assert_memory_equal(&back, &worker, sizeof back);

    struct dip_registry_leader leader = {.id = "c0", .address = "[::1]:50051"}, led = {0};
    assert_int_equal(dip_registry_encode_leader(&leader, value), DIP_OK);
    assert_int_equal(dip_registry_decode_leader(value, NULL, &led), DIP_OK);
    assert_memory_equal(&led, &leader, sizeof led);

    struct dip_registry_group group = {
        .id = "g1", .epoch = INT64_MAX, .ranks = {"a", "b", "c"}, .rank_count = 3};
    struct dip_registry_group grouped = {0};
    assert_int_equal(dip_registry_encode_group(&group, value), DIP_OK);
    assert_int_equal(dip_registry_decode_group("g1", value, NULL, &grouped), DIP_OK);
    assert_memory_equal(&grouped, &group, sizeof grouped);

    struct dip_registry_drain drain = {.since_s = 1764000000, .by = "ops", .why = "new disk"};
    struct dip_registry_drain drained = {0};
    assert_int_equal(dip_registry_encode_drain(&drain, value), DIP_OK);
    assert_int_equal(dip_registry_decode_drain(value, NULL, &drained), DIP_OK);
    assert_memory_equal(&drained, &drain, sizeof drained);
}

static void wrong_values_are_not_written(void **state)
{
    (void)state;
    char value[DIP_MEMBER_VALUE_BYTES] = "kept";
    struct dip_registry_member bad[] = {worker, worker, worker, worker, worker, worker};
    snprintf(bad[0].address, sizeof bad[0].address, "no-port");
    snprintf(bad[1].address, sizeof bad[1].address, "host:99999");
    snprintf(bad[2].address, sizeof bad[2].address, "ho st:1");
    snprintf(bad[3].device, sizeof bad[3].device, "two\nlines");
    bad[4].roles = 0;
    bad[5].ar_slots = -1;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(dip_registry_encode_member(&bad[i], value), DIP_INVALID);
    struct dip_registry_group group = {.id = "g", .rank_count = 0};
    assert_int_equal(dip_registry_encode_group(&group, value), DIP_INVALID);
    assert_string_equal(value, "kept");
}

static void foreign_values_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        enum dip_status status;
    } members[] = {
        {"", DIP_CORRUPT},
        {"[]", DIP_CORRUPT},
        {"{", DIP_CORRUPT},
        {"{}", DIP_CORRUPT}, /* no version */
        {"{\"version\": 1}", DIP_INVALID},
        {"{\"version\": 1, \"address\": 7}", DIP_CORRUPT},
        {"{\"version\": 1, \"address\": \"a:1\", \"roles\": [\"king\"]}", DIP_INVALID},
        {"{\"version\": 1, \"address\": \"a:0\", \"roles\": [\"ar\"]}", DIP_INVALID},
        {"{\"version\": 1, \"address\": \"a/b:1\", \"roles\": [\"ar\"]}", DIP_INVALID},
        {"{\"version\": 1, \"address\": \"a:1\", \"roles\": [\"ar\"], \"device\": \"\\u001b[2J\"}",
         DIP_INVALID},
        {"{\"version\": 1, \"address\": \"a:1\", \"roles\": [\"ar\"], \"slots\": 3}", DIP_CORRUPT},
        {"{\"version\": 9, \"address\": \"a:1\", \"roles\": [\"ar\", \"later\"], \"new\": {}}",
         DIP_OK},
    };
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        struct dip_registry_member member = {.ar_slots = 77};
        struct dip_why why = {0};
        enum dip_status status = dip_registry_decode_member("m", members[i].value, &why, &member);
        if ((status == DIP_OK) != (members[i].status == DIP_OK))
            fail_msg("%s: %s", members[i].value, dip_status_text(status));
        assert_true(status == DIP_OK ? member.roles == DIP_ROLE_AR : member.ar_slots == 77);
        assert_true((status == DIP_OK) == (why.text[0] == '\0'));
    }
    struct dip_registry_member member;
    char *id = "../leader";
    assert_int_equal(dip_registry_decode_member(id, "{}", NULL, &member), DIP_INVALID);
    struct dip_registry_leader leader;
    assert_int_not_equal(dip_registry_decode_leader("{\"version\": 1, \"id\": \"a b\", "
                                                    "\"address\": \"a:1\"}",
                                                    NULL, &leader),
                         DIP_OK);
    struct dip_registry_group group;
    assert_int_not_equal(dip_registry_decode_group("g",
                                                   "{\"version\": 1, \"epoch\": -1, "
                                                   "\"ranks\": [\"a\"]}",
                                                   NULL, &group),
                         DIP_OK);
    struct dip_registry_drain drain;
    assert_int_not_equal(
        dip_registry_decode_drain("{\"version\": 1, \"why\": \"a\\u0007b\"}", NULL, &drain),
        DIP_OK);
}

/* ---- a registry of one ---- */

struct told {
    struct dip_rpc_loop *loop;
    struct dip_registry *registry;
    uint64_t epoch;
    int terms, ends, leaders, leaderless, members, left, written;
    enum dip_status written_status;
    char written_id[64], leader[DIP_REGISTRY_ADDRESS_BYTES];
};

static void on_leading(void *context, uint64_t epoch)
{
    struct told *t = context;
    assert_true(dip_rpc_loop_is_mine(t->loop));
    assert_true(epoch != t->epoch);
    assert_true(epoch == 0 || t->epoch == 0);
    t->epoch = epoch;
    t->terms += epoch != 0;
    t->ends += epoch == 0;
}

static void on_leader(void *context, const struct dip_registry_leader *leader, uint64_t epoch)
{
    struct told *t = context;
    assert_int_equal(epoch != 0, leader != NULL);
    t->leaders += leader != NULL;
    t->leaderless += leader == NULL;
    snprintf(t->leader, sizeof t->leader, "%s", leader ? leader->address : "");
}

static void on_members(void *context)
{
    ((struct told *)context)->members++;
}

static void on_written(void *context, const char *id, enum dip_status status)
{
    struct told *t = context;
    t->written++;
    t->written_status = status;
    snprintf(t->written_id, sizeof t->written_id, "%s", id);
}

static void on_left(void *context)
{
    struct told *t = context;
    t->left++;
    dip_registry_free(t->registry);
    t->registry = NULL;
}

static const struct dip_registry_handler handler = {.on_leading = on_leading,
                                                    .on_leader = on_leader,
                                                    .on_members = on_members,
                                                    .on_written = on_written,
                                                    .on_left = on_left};

static void told_open(struct told *t)
{
    struct dip_why why = {0};
    memset(t, 0, sizeof *t);
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &t->loop), DIP_OK);
    struct dip_registry_options options = {
        .loop = t->loop, .cluster_id = "main", .id = "me", .handler = &handler, .context = t};
    if (dip_registry_open(&options, &why, &t->registry))
        fail_msg("%s", why.text);
}

#define WAIT_UNTIL(t, condition)                                                                   \
    do {                                                                                           \
        int64_t give_up_ns = dip_clock_now_ns() + PATIENCE_S * DIP_SECOND_NS;                      \
        while (!(condition) && dip_clock_now_ns() < give_up_ns)                                    \
            dip_rpc_loop_turn((t)->loop, 100 * DIP_MS_NS);                                         \
        assert_true(condition);                                                                    \
    } while (0)

static uint64_t answers(const struct told *t, enum dip_kv_kind kind)
{
    const struct dip_times *times = dip_registry_times(t->registry, kind);
    uint64_t count = 0;
    for (int i = 0; i < DIP_TIMES_BUCKETS; i++)
        count += dip_counter_get(&times->counts[i]);
    return count;
}

static void one_process_leads_itself(void **state)
{
    (void)state;
    struct told t;
    told_open(&t);
    assert_int_equal(dip_registry_register(t.registry, &worker), DIP_OK);
    assert_int_equal(dip_registry_campaign(t.registry, "127.0.0.1:1"), DIP_OK);
    WAIT_UNTIL(&t, t.epoch != 0 && dip_registry_facts(t.registry)->member_count == 1);
    const struct dip_registry_facts *facts = dip_registry_facts(t.registry);
    assert_true(dip_registry_is_leading(t.registry, dip_clock_now_ns()));
    assert_false(dip_registry_is_leading(t.registry, facts->lead_until_ns));
    assert_string_equal(t.leader, "127.0.0.1:1");
    assert_true(facts->has_leader && facts->leader_epoch == t.epoch);
    assert_true(facts->is_registered && facts->is_listed && !facts->is_degraded);
    const struct dip_registry_entry *entry = dip_registry_find(t.registry, "me");
    assert_non_null(entry);
    assert_ptr_equal(entry, dip_registry_entry(t.registry, 0));
    assert_int_equal(entry->incarnation, facts->incarnation);
    assert_string_equal(entry->member.address, worker.address);
    assert_null(dip_registry_find(t.registry, "gpu-1.a"));

    /* both leases run, and what was asked has been timed */
    assert_true(facts->member_lease_ns > dip_clock_now_ns());
    assert_true(facts->leader_lease_ns > facts->lead_until_ns);
    static const enum dip_kv_kind asked[] = {DIP_KV_GRANT, DIP_KV_PUT, DIP_KV_RANGE};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
        assert_true(answers(&t, asked[i]) > 0);
    assert_int_equal(answers(&t, DIP_KV_WATCH), 0);
    assert_int_equal(answers(&t, DIP_KV_REVOKE), 0);

    /* a member that says something else is the same member */
    struct dip_registry_member other = worker;
    other.ar_slots = 8;
    int64_t incarnation = facts->incarnation;
    assert_int_equal(dip_registry_register(t.registry, &other), DIP_OK);
    WAIT_UNTIL(&t, dip_registry_find(t.registry, "me")->member.ar_slots == 8);
    assert_int_equal(dip_registry_find(t.registry, "me")->incarnation, incarnation);

    uint64_t epoch = t.epoch;
    assert_int_equal(dip_registry_resign(t.registry), DIP_OK);
    WAIT_UNTIL(&t, t.epoch == 0 && t.leaderless == 1);
    assert_false(dip_registry_is_leading(t.registry, 0));
    assert_int_equal(dip_registry_facts(t.registry)->leader_lease_ns, 0);
    WAIT_UNTIL(&t, answers(&t, DIP_KV_REVOKE) == 1);
    assert_int_equal(dip_registry_campaign(t.registry, "127.0.0.1:2"), DIP_OK);
    WAIT_UNTIL(&t, t.epoch != 0);
    assert_true(t.epoch > epoch);
    dip_registry_leave(t.registry, 20 * DIP_SECOND_NS);
    dip_registry_leave(t.registry, 0);
    assert_int_equal(dip_registry_resign(t.registry), DIP_BUSY);
    WAIT_UNTIL(&t, t.left == 1);
    assert_int_equal(t.epoch, 0);
    assert_int_equal(t.terms, 2);
    assert_int_equal(t.ends, 2);
    dip_rpc_loop_free(t.loop);
}

static void wishes_and_groups_are_answered(void **state)
{
    (void)state;
    struct told t;
    told_open(&t);
    struct dip_registry_drain drain = {.since_s = 5, .by = "ops", .why = "disk"};
    struct dip_registry_group group = {.id = "g0", .ranks = {"a"}, .rank_count = 1};
    assert_int_equal(dip_registry_group(t.registry, &group), DIP_OK);
    WAIT_UNTIL(&t, t.written == 1);
    assert_int_equal(t.written_status, DIP_STALE); /* it does not lead */
    assert_string_equal(t.written_id, "g0");

    assert_int_equal(dip_registry_register(t.registry, &worker), DIP_OK);
    assert_int_equal(dip_registry_drain(t.registry, "me", &drain), DIP_OK);
    WAIT_UNTIL(&t, t.written == 2 && dip_registry_find(t.registry, "me") &&
                       dip_registry_find(t.registry, "me")->is_drain_wished);
    assert_int_equal(t.written_status, DIP_OK);
    assert_string_equal(dip_registry_find(t.registry, "me")->drain.why, "disk");
    assert_int_equal(dip_registry_drain(t.registry, "me", NULL), DIP_OK);
    WAIT_UNTIL(&t, !dip_registry_find(t.registry, "me")->is_drain_wished);

    assert_int_equal(dip_registry_campaign(t.registry, "127.0.0.1:1"), DIP_OK);
    WAIT_UNTIL(&t, t.epoch != 0);
    assert_int_equal(dip_registry_group(t.registry, &group), DIP_OK);
    WAIT_UNTIL(&t, t.written == 4);
    assert_int_equal(t.written_status, DIP_OK);
    assert_int_equal(dip_registry_ungroup(t.registry, "g0"), DIP_OK);
    WAIT_UNTIL(&t, t.written == 5);
    assert_int_equal(dip_registry_drain(t.registry, "no/slash", NULL), DIP_OK);
    WAIT_UNTIL(&t, t.written == 6);
    assert_int_equal(t.written_status, DIP_INVALID);
    dip_registry_free(t.registry); /* without a word, with nobody on the loop */
    dip_rpc_loop_free(t.loop);
}

/* More wishes than fit are refused, and a loop that looks late gets the newest state at once. */
static void a_loop_that_is_late_misses_nothing(void **state)
{
    (void)state;
    struct told t;
    told_open(&t);
    struct dip_registry_member member = worker;
    int slots = 0;
    for (int i = 1; i <= 300; i++) {
        member.ar_slots = i;
        enum dip_status status = dip_registry_register(t.registry, &member);
        if (status == DIP_OK)
            slots = i;
        else
            assert_int_equal(status, DIP_BUSY);
    }
    dip_clock_sleep(100 * DIP_MS_NS);
    WAIT_UNTIL(&t, dip_registry_find(t.registry, "me") &&
                       dip_registry_find(t.registry, "me")->member.ar_slots == slots);
    assert_true(t.members < 300);
    dip_registry_leave(t.registry, 20 * DIP_SECOND_NS);
    WAIT_UNTIL(&t, t.left == 1);
    dip_rpc_loop_free(t.loop);
}

static void bad_names_are_refused(void **state)
{
    (void)state;
    struct dip_registry *registry = NULL;
    struct dip_why why = {0};
    struct dip_registry_options options = {.cluster_id = "main", .id = "a/b", .handler = &handler};
    assert_int_equal(dip_registry_open(&options, &why, &registry), DIP_INVALID);
    assert_non_null(strstr(why.text, "a/b"));
    options.id = "a";
    options.cluster_id = "../x";
    assert_int_equal(dip_registry_open(&options, NULL, &registry), DIP_INVALID);
    options.cluster_id = "main";
    options.endpoints = "ftp://x";
    why.text[0] = '\0';
    assert_int_equal(dip_registry_open(&options, &why, &registry), DIP_INVALID);
    assert_non_null(strstr(why.text, "ftp://x"));
    assert_null(registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_survive_the_trip),
        cmocka_unit_test(wrong_values_are_not_written),
        cmocka_unit_test(foreign_values_are_refused),
        cmocka_unit_test(one_process_leads_itself),
        cmocka_unit_test(wishes_and_groups_are_answered),
        cmocka_unit_test(a_loop_that_is_late_misses_nothing),
        cmocka_unit_test(bad_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
