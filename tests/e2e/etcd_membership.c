/* tests/e2e/etcd_membership.c - membership over real etcd: three processes' worth of it, three
 * nodes; a lease revoked, a node killed and one frozen, all of etcd gone and back.
 *
 * Time limits are generous: the machine may be busy. What must not happen is checked all along. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cluster/cluster.h"
#include "net/etcd.h"
#include "tests/e2e/etcd_cluster.h"

enum { PEERS = 3, FAILED_MAX = 64, PATIENCE_S = 90 };

struct peer {
    struct dip_kv *kv;
    struct dip_membership *m;
    uint64_t failed_ids[FAILED_MAX]; /* of sends that were refused */
    int failed_count;
    int left;
};

static void carry_out(struct peer *p)
{
    struct dip_membership_action action;
    while (dip_membership_next(p->m, &action)) {
        if (action.kind == DIP_MEMBERSHIP_SEND &&
            dip_kv_send(p->kv, dip_clock_now_ns(), &action.request)) {
            assert_true(p->failed_count < FAILED_MAX);
            p->failed_ids[p->failed_count++] = action.request.id;
        }
        if (action.kind == DIP_MEMBERSHIP_CANCEL)
            dip_kv_cancel(p->kv, action.request.id);
        p->left += action.kind == DIP_MEMBERSHIP_LEFT;
    }
}

static void feed(struct peer *p, struct dip_membership_event event)
{
    assert_int_equal(dip_membership_feed(p->m, dip_clock_now_ns(), &event), DIP_OK);
    carry_out(p);
    while (p->failed_count > 0) {
        struct dip_kv_reply reply = {
            .id = p->failed_ids[--p->failed_count], .status = DIP_BUSY, .is_last = true};
        event = (struct dip_membership_event){.kind = DIP_MEMBERSHIP_REPLY, .reply = &reply};
        assert_int_equal(dip_membership_feed(p->m, dip_clock_now_ns(), &event), DIP_OK);
        carry_out(p);
    }
}

static void peer_turn(struct peer *p)
{
    struct dip_kv_reply reply;
    dip_kv_poll(p->kv, dip_clock_now_ns(), 5 * DIP_MS_NS);
    while (dip_kv_next(p->kv, dip_clock_now_ns(), &reply))
        feed(p, (struct dip_membership_event){.kind = DIP_MEMBERSHIP_REPLY, .reply = &reply});
    if (dip_clock_now_ns() >= dip_membership_wake_ns(p->m))
        feed(p, (struct dip_membership_event){.kind = DIP_MEMBERSHIP_TICK});
}

static struct dip_membership_facts facts(const struct peer *p)
{
    return dip_membership_facts(p->m, dip_clock_now_ns());
}

static int leaders(const struct peer *peers)
{
    int count = 0;
    int64_t now_ns = dip_clock_now_ns();
    for (int i = 0; i < PEERS; i++)
        count += dip_membership_facts(peers[i].m, now_ns).is_leading;
    return count;
}

static void turn(struct peer *peers)
{
    for (int i = 0; i < PEERS; i++)
        peer_turn(&peers[i]);
    assert_true(leaders(peers) <= 1);
}

static int member_count(const struct peer *p)
{
    struct dip_membership_entry entry;
    int count = 0;
    for (int cursor = 0; dip_membership_member(p->m, &cursor, &entry);)
        count++;
    return count;
}

/* Everybody is registered, knows everybody, agrees about the leader, and is well. */
static bool is_settled(const struct peer *peers)
{
    struct dip_membership_entry first = {0};
    struct dip_membership_entry leader = {0};
    if (leaders(peers) != 1 || !dip_membership_leader(peers[0].m, &first))
        return false;
    for (int i = 0; i < PEERS; i++) {
        struct dip_membership_facts f = facts(&peers[i]);
        if (!f.is_registered || f.is_degraded || member_count(&peers[i]) != PEERS ||
            !dip_membership_leader(peers[i].m, &leader) || leader.incarnation != first.incarnation)
            return false;
        if (f.is_leading && f.epoch != first.incarnation)
            return false;
    }
    return true;
}

static int64_t settle(struct peer *peers, const char *what)
{
    int64_t begin = dip_clock_now_ns();
    while (!is_settled(peers)) {
        turn(peers);
        if (dip_clock_now_ns() > begin + PATIENCE_S * DIP_SECOND_NS)
            fail_msg("%s: not settled; %s", what, facts(&peers[0]).why);
    }
    return (dip_clock_now_ns() - begin) / DIP_MS_NS;
}

static void run(struct peer *peers, int64_t wait_ns)
{
    for (int64_t end = dip_clock_now_ns() + wait_ns; dip_clock_now_ns() < end;)
        turn(peers);
}

static void peers_open(const struct cluster *c, struct peer peers[PEERS])
{
    char endpoints[300];
    cluster_endpoints(c, endpoints);
    for (int i = 0; i < PEERS; i++) {
        char id[16];
        char value[64];
        struct dip_etcd_options etcd = {.endpoints = endpoints, .seed = (uint64_t)i};
        snprintf(id, sizeof id, "n%d", i);
        snprintf(value, sizeof value, "{\"version\": 1, \"address\": \"127.0.0.1:%d\"}", 7000 + i);
        struct dip_membership_options options = {.prefix = "/diptych/test",
                                                 .id = id,
                                                 .member_ttl_s = 6,
                                                 .leader_ttl_s = 4,
                                                 .seed = (uint64_t)(100 + i)};
        assert_int_equal(dip_etcd_open(&etcd, NULL, &peers[i].kv), DIP_OK);
        assert_int_equal(dip_membership_new(&options, &peers[i].m), DIP_OK);
        feed(&peers[i],
             (struct dip_membership_event){.kind = DIP_MEMBERSHIP_REGISTER, .value = value});
        feed(&peers[i],
             (struct dip_membership_event){.kind = DIP_MEMBERSHIP_CAMPAIGN, .value = value});
    }
}

/* The lease that a key hangs on is taken away, as when etcd thinks that the process is gone. */
static void revoke_lease_of(const struct cluster *c, const char *key)
{
    char command[1000];
    char endpoints[300];
    cluster_endpoints(c, endpoints);
    snprintf(command, sizeof command,
             "lease=$(etcdctl --endpoints %s get %s -w fields | sed -n 's/^\"Lease\" : //p') && "
             "etcdctl --endpoints %s lease revoke $(printf %%x \"$lease\")",
             endpoints, key, endpoints);
    assert_int_equal(cluster_run(c, (const char *const[]){"sh", "-c", command, NULL}), 0);
}

static void leases_nodes_and_silence(void **state)
{
    (void)state;
    struct cluster c = {0};
    struct peer peers[PEERS] = {0};
    cluster_open(&c, 3);
    cluster_start(&c);
    peers_open(&c, peers);
    int64_t start_ms = settle(peers, "start");

    int64_t incarnation = facts(&peers[1]).incarnation;
    revoke_lease_of(&c, "/diptych/test/members/n1");
    int64_t end = dip_clock_now_ns() + PATIENCE_S * DIP_SECOND_NS;
    while (facts(&peers[1]).incarnation <= incarnation) {
        turn(peers);
        assert_true(dip_clock_now_ns() < end);
    }
    int64_t revoked_ms = settle(peers, "a lease was revoked");
    assert_true(peers[0].left >= 1); /* the old incarnation was seen to leave */

    cluster_kill(&c, 0); /* every peer's first endpoint */
    run(peers, DIP_SECOND_NS);
    int64_t killed_ms = settle(peers, "a node was killed");
    cluster_start_node(&c, 0);
    run(peers, 2 * DIP_SECOND_NS);
    cluster_freeze(&c, 1);
    run(peers, 4 * DIP_SECOND_NS);
    int64_t frozen_ms = settle(peers, "a node was frozen");
    cluster_signal(&c, 1, SIGCONT);
    run(peers, DIP_SECOND_NS);

    /* all of etcd is gone for longer than every lease */
    (void)settle(peers, "before silence");
    int left = peers[0].left + peers[1].left + peers[2].left;
    for (int i = 0; i < 3; i++)
        cluster_kill(&c, i);
    run(peers, 9 * DIP_SECOND_NS);
    assert_int_equal(leaders(peers), 0);
    for (int i = 0; i < PEERS; i++) {
        assert_int_equal(member_count(&peers[i]), PEERS);
        assert_true(facts(&peers[i]).is_degraded);
        assert_non_null(strstr(facts(&peers[i]).why, "http://127.0.0.1:"));
    }
    assert_int_equal(peers[0].left + peers[1].left + peers[2].left, left);
    cluster_start(&c);
    int64_t back_ms = settle(peers, "etcd came back");

    /* a clean exit is seen at once, and the others elect */
    int leader = facts(&peers[0]).is_leading ? 0 : facts(&peers[1]).is_leading ? 1 : 2;
    const struct peer *other = &peers[(leader + 1) % PEERS];
    feed(&peers[leader], (struct dip_membership_event){.kind = DIP_MEMBERSHIP_LEAVE});
    int64_t begin = dip_clock_now_ns();
    while (member_count(other) != PEERS - 1 || leaders(peers) != 1) {
        turn(peers);
        assert_true(dip_clock_now_ns() < begin + PATIENCE_S * DIP_SECOND_NS);
    }
    printf("settled in ms: start %lld, revoked %lld, killed 1000 + %lld, frozen 4000 + %lld, "
           "all back %lld; next leader after %lld\n",
           (long long)start_ms, (long long)revoked_ms, (long long)killed_ms, (long long)frozen_ms,
           (long long)back_ms, (long long)((dip_clock_now_ns() - begin) / DIP_MS_NS));
    for (int i = 0; i < PEERS; i++) {
        dip_membership_free(peers[i].m);
        dip_kv_close(peers[i].kv);
    }
    cluster_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leases_nodes_and_silence),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
