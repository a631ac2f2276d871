/* tests/e2e/etcd.c - the etcd client against real etcd processes: one node and three; nodes that
 * are killed, frozen, or without a quorum; compaction; users; TLS.
 *
 * Loads nothing and lasts about a minute. etcd writes to a temporary folder. Waits are for
 * conditions, with ceilings for a machine that is busy with something else; what is asserted about
 * time is asserted of our own clocks only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/etcd.h"
#include "tests/e2e/etcd_cluster.h"

enum { PATIENCE_S = 90 }; /* until a wait counts as a hang */

/* ---- a client that asks and waits ---- */

struct client {
    struct dip_kv *kv;
    uint64_t serial;
    uint64_t watch_id;
    /* what the watch said so far */
    char keys[64][32];
    int key_count, interruptions, resumes;
    int64_t watch_revision;
    bool is_standing;
    bool is_collapsing; /* a put that timed out may have happened, and is put again */
    enum dip_status watch_end;
    /* the last other reply; entries are copied as far as tests look at them */
    struct dip_kv_reply reply;
    char value[64];
};

static struct client client_open(struct dip_etcd_options options)
{
    struct client client = {.serial = 1};
    struct dip_why why = {0};
    options.seed = 7;
    if (dip_etcd_open(&options, &why, &client.kv))
        fail_msg("%s", why.text);
    return client;
}

static struct client client_of(const struct cluster *c)
{
    char text[300];
    return client_open((struct dip_etcd_options){.endpoints = cluster_endpoints(c, text)});
}

/* For a node that is there all the time: a busy machine is no reason to fail a call. */
static struct client patient_client_of(const struct cluster *c)
{
    char text[300];
    return client_open((struct dip_etcd_options){.endpoints = cluster_endpoints(c, text),
                                                 .call_wait_ns = 30 * DIP_SECOND_NS});
}

static void take(struct client *client, const struct dip_kv_reply *reply)
{
    if (reply->id != client->watch_id) {
        client->reply = *reply;
        client->value[0] = '\0';
        if (reply->entry_count > 0)
            snprintf(client->value, sizeof client->value, "%s", reply->entries[0].value);
        return;
    }
    client->is_standing = reply->status == DIP_OK;
    client->interruptions += reply->status == DIP_UNREACHABLE;
    client->resumes += reply->is_resumed;
    client->watch_revision = reply->revision;
    if (reply->is_last)
        client->watch_end = reply->status;
    for (int i = 0; i < reply->entry_count; i++) {
        char news[sizeof client->keys[0]];
        snprintf(news, sizeof news, "%s%s", reply->entries[i].is_deleted ? "-" : "+",
                 reply->entries[i].key);
        if (client->is_collapsing && client->key_count > 0 &&
            strcmp(client->keys[client->key_count - 1], news) == 0)
            continue;
        assert_true(client->key_count < 64);
        memcpy(client->keys[client->key_count++], news, sizeof news);
    }
}

static void turn(struct client *client)
{
    struct dip_kv_reply reply;
    dip_kv_poll(client->kv, dip_clock_now_ns(), 20 * DIP_MS_NS);
    while (dip_kv_next(client->kv, dip_clock_now_ns(), &reply))
        take(client, &reply);
}

static int64_t after(int64_t seconds)
{
    return dip_clock_now_ns() + seconds * DIP_SECOND_NS;
}

static enum dip_status ask(struct client *client, struct dip_kv_request request)
{
    request.id = ++client->serial;
    client->reply.id = 0;
    assert_int_equal(dip_kv_send(client->kv, dip_clock_now_ns(), &request), DIP_OK);
    for (int64_t end = after(PATIENCE_S); client->reply.id != request.id;) {
        turn(client);
        assert_true(dip_clock_now_ns() < end); /* every request is answered */
    }
    return client->reply.status;
}

/* Asks until it is answered well: an election takes its time. */
static void ask_until_ok(struct client *client, struct dip_kv_request request)
{
    for (int64_t end = after(PATIENCE_S); ask(client, request);) {
        if (dip_clock_now_ns() >= end)
            fail_msg("%s", client->reply.text);
        turn(client);
    }
}

static enum dip_status put(struct client *client, const char *key)
{
    return ask(client, (struct dip_kv_request){
                           .kind = DIP_KV_PUT, .key = key, .value = "v", .value_bytes = 1});
}

static void put_until_ok(struct client *client, const char *key)
{
    ask_until_ok(client, (struct dip_kv_request){
                             .kind = DIP_KV_PUT, .key = key, .value = "v", .value_bytes = 1});
}

static void watch(struct client *client, const char *prefix, int64_t revision)
{
    struct dip_kv_request request = {
        .id = ++client->serial, .kind = DIP_KV_WATCH, .key = prefix, .revision = revision};
    client->watch_id = request.id;
    client->watch_end = DIP_OK;
    client->is_standing = false;
    assert_int_equal(dip_kv_send(client->kv, dip_clock_now_ns(), &request), DIP_OK);
    for (int64_t end = after(PATIENCE_S); !client->is_standing && !client->watch_end;) {
        turn(client);
        assert_true(dip_clock_now_ns() < end);
    }
}

/* Waits until the watch has told so many changes; returns the milliseconds it took. */
static int64_t wait_keys(struct client *client, int count)
{
    int64_t begin = dip_clock_now_ns();
    while (client->key_count < count) {
        turn(client);
        if (dip_clock_now_ns() >= begin + PATIENCE_S * DIP_SECOND_NS)
            fail_msg("%d of %d changes were told", client->key_count, count);
    }
    return (dip_clock_now_ns() - begin) / DIP_MS_NS;
}

static struct dip_kv_request keepalive(int64_t lease)
{
    return (struct dip_kv_request){.kind = DIP_KV_KEEPALIVE, .lease = lease};
}

/* ---- one node ---- */

static void one_node(void **state)
{
    (void)state;
    struct cluster c = {0};
    cluster_open(&c, 1);
    cluster_start(&c);
    struct client client = patient_client_of(&c);
    put_until_ok(&client, "/t/first");

    /* conditions mean what the registry inside the process means (tests/unit/kv_local.c) */
    struct dip_kv_request create = {.kind = DIP_KV_PUT,
                                    .key = "/t/1",
                                    .value = "one",
                                    .value_bytes = 3,
                                    .condition = DIP_KV_IF_ABSENT};
    assert_int_equal(ask(&client, create), DIP_OK);
    assert_true(client.reply.is_done);
    int64_t born = client.reply.revision;
    assert_int_equal(ask(&client, create), DIP_OK);
    assert_false(client.reply.is_done);
    assert_string_equal(client.value, "one");
    struct dip_kv_request swap = {.kind = DIP_KV_PUT,
                                  .key = "/t/1",
                                  .condition = DIP_KV_IF_REVISION,
                                  .revision = born,
                                  .guard_key = "/t/1",
                                  .guard_revision = born};
    assert_int_equal(ask(&client, swap), DIP_OK);
    assert_true(client.reply.is_done);
    assert_int_equal(client.reply.revision, born + 1);
    assert_int_equal(ask(&client, swap), DIP_OK);
    assert_false(client.reply.is_done);

    /* a lease ends by itself and takes its key along */
    watch(&client, "/t/", born);
    wait_keys(&client, 2);
    assert_int_equal(ask(&client, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 5}),
                     DIP_OK);
    int64_t lease = client.reply.lease;
    assert_true(lease != 0);
    struct dip_kv_request bound = {.kind = DIP_KV_PUT, .key = "/t/2", .lease = lease};
    assert_int_equal(ask(&client, bound), DIP_OK);
    assert_int_equal(ask(&client, keepalive(lease)), DIP_OK);
    assert_true(client.reply.ttl_s > 0);
    wait_keys(&client, 4);
    assert_string_equal(client.keys[3], "-/t/2");
    assert_int_equal(ask(&client, keepalive(lease)), DIP_NOT_FOUND);
    assert_int_equal(ask(&client, bound), DIP_NOT_FOUND);
    assert_int_equal(ask(&client, (struct dip_kv_request){.kind = DIP_KV_REVOKE, .lease = lease}),
                     DIP_NOT_FOUND);

    /* compaction ends a watch that comes too late, with words to list again */
    char revision[32];
    char text[300];
    assert_int_equal(ask(&client, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/t/"}),
                     DIP_OK);
    assert_int_equal(client.reply.entry_count, 2);
    int64_t now = client.reply.revision;
    snprintf(revision, sizeof revision, "%lld", (long long)now);
    const char *const compact[] = {"etcdctl",    "--endpoints", cluster_endpoints(&c, text),
                                   "compaction", revision,      NULL};
    assert_int_equal(cluster_run(&c, compact), 0);
    dip_kv_cancel(client.kv, client.watch_id);
    watch(&client, "/t/", born);
    for (int64_t end = after(PATIENCE_S); !client.watch_end && dip_clock_now_ns() < end;)
        turn(&client);
    assert_int_equal(client.watch_end, DIP_STALE);
    assert_int_equal(client.watch_revision, now);
    watch(&client, "/t/", now + 1);
    assert_true(client.is_standing);

    /* the node goes and comes back: answers in time, and the watch misses nothing */
    cluster_kill(&c, 0);
    assert_int_equal(put(&client, "/t/3"), DIP_UNREACHABLE);
    assert_true(strstr(client.reply.text, "http://127.0.0.1:") == client.reply.text);
    int told = client.key_count;
    cluster_start_node(&c, 0);
    put_until_ok(&client, "/t/4");
    wait_keys(&client, told + 1);
    assert_string_equal(client.keys[told], "+/t/4");
    assert_int_equal(client.interruptions, 1);
    assert_int_equal(client.resumes, 1);
    dip_kv_close(client.kv);
    cluster_close(&c);
}

/* ---- three nodes ---- */

static int preferred_node(const struct cluster *c, const struct client *client)
{
    char port[16];
    for (int i = 0; i < c->node_count; i++) {
        snprintf(port, sizeof port, ":%d", c->client_ports[i]);
        if (strstr(dip_etcd_stats(client->kv).endpoint, port))
            return i;
    }
    fail();
    return 0;
}

static void three_nodes(void **state)
{
    (void)state;
    struct cluster c = {0};
    cluster_open(&c, 3);
    cluster_start(&c);
    struct client client = client_of(&c);
    struct client other = client_of(&c);
    put_until_ok(&other, "/first");
    put_until_ok(&client, "/first");
    client.is_collapsing = true;
    watch(&client, "/t/", 0);
    put_until_ok(&other, "/t/1");
    wait_keys(&client, 1);

    /* the node being watched is killed: resumed elsewhere, nothing lost */
    int node = preferred_node(&c, &client);
    cluster_kill(&c, node);
    put_until_ok(&other, "/t/2");
    int64_t killed_ms = wait_keys(&client, 2);
    cluster_start_node(&c, node);

    /* the node being watched freezes, and who watches makes no calls: its own probe must tell */
    put_until_ok(&client, "/beat");
    while (!client.is_standing)
        turn(&client);
    node = preferred_node(&c, &client);
    int resumes = client.resumes;
    cluster_freeze(&c, node);
    int64_t begin = dip_clock_now_ns();
    put_until_ok(&other, "/t/3");
    wait_keys(&client, 3);
    int64_t frozen_ms = (dip_clock_now_ns() - begin) / DIP_MS_NS;
    assert_true(client.resumes > resumes);
    cluster_signal(&c, node, SIGCONT);

    /* no quorum: calls end in time, the watch does not hang in silence, a lease outlives it */
    put_until_ok(&client, "/beat");
    ask_until_ok(&client, (struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 60});
    int64_t lease = client.reply.lease;
    while (!client.is_standing)
        turn(&client);
    int interruptions = client.interruptions;
    node = preferred_node(&c, &client);
    cluster_kill(&c, (node + 1) % 3);
    cluster_kill(&c, (node + 2) % 3);
    begin = dip_clock_now_ns();
    while (client.interruptions == interruptions &&
           dip_clock_now_ns() < begin + PATIENCE_S * DIP_SECOND_NS)
        turn(&client);
    int64_t silent_ms = (dip_clock_now_ns() - begin) / DIP_MS_NS;
    assert_true(client.interruptions > interruptions); /* without any call: the hasleader header */
    assert_int_not_equal(ask(&client, keepalive(lease)), DIP_OK);
    assert_int_not_equal(client.reply.status, DIP_NOT_FOUND);
    cluster_start_node(&c, (node + 1) % 3);
    cluster_start_node(&c, (node + 2) % 3);
    put_until_ok(&other, "/t/4");
    wait_keys(&client, 4);
    for (int i = 0; i < 4; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, "+/t/%d", i + 1);
        assert_string_equal(client.keys[i], expected);
    }
    printf("watch resumed: killed %lld ms, frozen %lld ms; no leader noticed in %lld ms\n",
           (long long)killed_ms, (long long)frozen_ms, (long long)silent_ms);
    dip_kv_close(client.kv);
    dip_kv_close(other.kv);
    cluster_close(&c);
}

/* ---- users ---- */

static void users(void **state)
{
    (void)state;
    static const char *const options[] = {"--auth-token-ttl=2", NULL};
    static const char *const steps[][4] = {{"user", "add", "root:secret\"\\", NULL},
                                           {"user", "grant-role", "root", "root"},
                                           {"auth", "enable", NULL, NULL}};
    struct cluster c = {.options = options};
    char text[300];
    cluster_open(&c, 1);
    cluster_start(&c);
    struct client client = client_open((struct dip_etcd_options){
        .endpoints = cluster_endpoints(&c, text),
        .user = "root",
        .password = "secret\"\\",
        .call_wait_ns = 30 * DIP_SECOND_NS,
    });
    put_until_ok(&client, "/before"); /* etcd has no users yet: none is needed */
    for (int i = 0; i < 3; i++) {
        const char *const command[] = {"etcdctl",   "--endpoints", text,        steps[i][0],
                                       steps[i][1], steps[i][2],   steps[i][3], NULL};
        (void)cluster_run(
            &c, (const char *const[]){"etcdctl", "--endpoints", text, "role", "add", "root", NULL});
        assert_int_equal(cluster_run(&c, command), 0);
    }
    assert_int_equal(put(&client, "/after"), DIP_OK);
    watch(&client, "/t/", 0);
    assert_int_equal(put(&client, "/t/1"), DIP_OK);
    wait_keys(&client, 1);
    /* the token expires: taken for granted, then fetched again */
    uint64_t before = dip_etcd_stats(client.kv).authentications;
    for (int64_t end = after(5); dip_clock_now_ns() < end;)
        turn(&client);
    assert_int_equal(put(&client, "/t/2"), DIP_OK);
    assert_true(dip_etcd_stats(client.kv).authentications > before);
    wait_keys(&client, 2);

    struct client wrong =
        client_open((struct dip_etcd_options){.endpoints = text,
                                              .user = "root",
                                              .password = "guess",
                                              .call_wait_ns = 30 * DIP_SECOND_NS});
    assert_int_equal(put(&wrong, "/t/3"), DIP_INVALID);
    assert_non_null(strstr(wrong.reply.text, "invalid user ID or password"));
    struct client nobody = client_open(
        (struct dip_etcd_options){.endpoints = text, .call_wait_ns = 30 * DIP_SECOND_NS});
    assert_int_equal(put(&nobody, "/t/4"), DIP_INVALID);
    assert_int_equal(client.key_count, 2);
    dip_kv_close(nobody.kv);
    dip_kv_close(wrong.kv);
    dip_kv_close(client.kv);
    cluster_close(&c);
}

/* ---- TLS ---- */

/* A certificate without CN, for 127.0.0.1, signed by itself: both roots and ends in this test. */
static void make_certificate(const struct cluster *c, const char *name)
{
    char key[128];
    char cert[128];
    snprintf(key, sizeof key, "%s/%s.key", c->folder, name);
    snprintf(cert, sizeof cert, "%s/%s.crt", c->folder, name);
    const char *const command[] = {"openssl",
                                   "req",
                                   "-x509",
                                   "-newkey",
                                   "ec",
                                   "-pkeyopt",
                                   "ec_paramgen_curve:prime256v1",
                                   "-nodes",
                                   "-days",
                                   "2",
                                   "-subj",
                                   "/O=diptych",
                                   "-addext",
                                   "subjectAltName=IP:127.0.0.1",
                                   "-keyout",
                                   key,
                                   "-out",
                                   cert,
                                   NULL};
    assert_int_equal(cluster_run(c, command), 0);
}

static void tls(void **state)
{
    (void)state;
    static char words[5][400];
    const char *options[] = {words[0], words[1], words[2], words[3], NULL};
    struct cluster c = {.options = options, .scheme = "https"};
    char server[128];
    char mine[128];
    char key[128];
    char text[300];
    cluster_open(&c, 1);
    make_certificate(&c, "server");
    make_certificate(&c, "mine");
    snprintf(server, sizeof server, "%s/server.crt", c.folder);
    snprintf(mine, sizeof mine, "%s/mine.crt", c.folder);
    snprintf(key, sizeof key, "%s/mine.key", c.folder);
    snprintf(words[0], 400, "--cert-file=%s", server);
    snprintf(words[1], 400, "--key-file=%s/server.key", c.folder);
    snprintf(words[2], 400, "--trusted-ca-file=%s/ca.crt", c.folder);
    snprintf(words[3], 400, "--client-cert-auth=true");
    /* etcd's own gateway calls etcd with the server's certificate: both are trusted */
    snprintf(words[4], 400, "cat %s %s >%s/ca.crt", server, mine, c.folder);
    assert_int_equal(cluster_run(&c, (const char *const[]){"sh", "-c", words[4], NULL}), 0);
    cluster_start(&c);
    cluster_endpoints(&c, text);

    struct client client =
        client_open((struct dip_etcd_options){.endpoints = text,
                                              .ca = server,
                                              .cert = mine,
                                              .key = key,
                                              .call_wait_ns = 30 * DIP_SECOND_NS});
    put_until_ok(&client, "/t/0");
    watch(&client, "/t/", 0);
    assert_int_equal(put(&client, "/t/1"), DIP_OK);
    wait_keys(&client, 1);

    struct client stranger = client_open((struct dip_etcd_options){
        .endpoints = text, .ca = server, .call_wait_ns = 30 * DIP_SECOND_NS});
    assert_int_equal(put(&stranger, "/t/2"), DIP_UNREACHABLE); /* shows no certificate */
    struct client careful =
        client_open((struct dip_etcd_options){.endpoints = text,
                                              .ca = mine,
                                              .cert = mine,
                                              .key = key,
                                              .call_wait_ns = 30 * DIP_SECOND_NS});
    assert_int_equal(put(&careful, "/t/3"), DIP_UNREACHABLE); /* does not know the server's */
    assert_non_null(strstr(careful.reply.text, "certificate"));
    assert_int_equal(client.key_count, 1);
    dip_kv_close(careful.kv);
    dip_kv_close(stranger.kv);
    dip_kv_close(client.kv);
    cluster_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_node),
        cmocka_unit_test(three_nodes),
        cmocka_unit_test(users),
        cmocka_unit_test(tls),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
