/* cli/status.c - `diptych status`: leader, pools and members of a cluster, once or as they change.
 *
 * --watch redraws the page each second on a terminal; elsewhere, and with --json, it prints a line
 * for each change. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/members.h"
#include "cli/remote.h"
#include "cli/signals.h"
#include "proto/time.h"
#include "proto/wire.h"

enum { TIMEOUT_S = 10, MEMBERS_MAX = 4096, PAGE_MEMBERS = 1000 };

struct page {
    Diptych__V1__GetClusterResponse *cluster;
    Diptych__V1__GetScaleHintResponse *hint; /* the pools, when `cluster` has none of them */
    Diptych__V1__ListWorkersResponse *lists[MEMBERS_MAX / 100];
    int list_count;
};

static void page_deinit(struct page *page)
{
    dip_proto_free(page->cluster);
    dip_proto_free(page->hint);
    for (int i = 0; i < page->list_count; i++)
        dip_proto_free(page->lists[i]);
    *page = (struct page){0};
}

static enum dip_status ask_members(struct remote *remote, struct page *page,
                                   struct remote_end *ret_end)
{
    char token[256] = "";
    do {
        Diptych__V1__ListWorkersRequest request = DIPTYCH__V1__LIST_WORKERS_REQUEST__INIT;
        ProtobufCMessage *answer = NULL;
        request.page_size = PAGE_MEMBERS;
        request.page_token = token;
        DIP_TRY(dip__remote_ask(remote, "/diptych.v1.ClusterService/ListWorkers", &request.base,
                                &diptych__v1__list_workers_response__descriptor, ret_end, &answer));
        if (!answer)
            return DIP_OK;
        Diptych__V1__ListWorkersResponse *list = (Diptych__V1__ListWorkersResponse *)answer;
        page->lists[page->list_count++] = list;
        snprintf(token, sizeof token, "%s", list->next_page_token);
    } while (token[0] && page->list_count < (int)(sizeof page->lists / sizeof page->lists[0]));
    return DIP_OK;
}

static enum dip_status ask_cluster(struct remote *remote, struct page *page,
                                   struct remote_end *ret_end)
{
    Diptych__V1__GetClusterRequest request = DIPTYCH__V1__GET_CLUSTER_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    dip_proto_free(page->cluster);
    page->cluster = NULL;
    DIP_TRY(dip__remote_ask(remote, "/diptych.v1.ClusterService/GetCluster", &request.base,
                            &diptych__v1__get_cluster_response__descriptor, ret_end, &answer));
    page->cluster = (Diptych__V1__GetClusterResponse *)answer;
    return DIP_OK;
}

static enum dip_status ask_pools(struct remote *remote, struct page *page,
                                 struct remote_end *ret_end)
{
    Diptych__V1__GetScaleHintRequest request = DIPTYCH__V1__GET_SCALE_HINT_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    DIP_TRY(dip__remote_ask(remote, "/diptych.v1.ClusterService/GetScaleHint", &request.base,
                            &diptych__v1__get_scale_hint_response__descriptor, ret_end, &answer));
    page->hint = (Diptych__V1__GetScaleHintResponse *)answer;
    return DIP_OK;
}

/* The page is whole when *ret_end is OK. Whoever does not lead says so, and who does; of members
 * and pools only the leader knows: asking for them leads there, or is passed on. */
static enum dip_status ask_page(struct remote *remote, struct page *page,
                                struct remote_end *ret_end)
{
    DIP_TRY(ask_cluster(remote, page, ret_end));
    if (!page->cluster)
        return DIP_OK;
    bool is_leader = page->cluster->n_pools > 0;
    DIP_TRY(ask_members(remote, page, ret_end));
    if (is_leader || ret_end->code != DIP_RPC_OK)
        return DIP_OK;
    DIP_TRY(ask_cluster(remote, page, ret_end));
    bool has_pools = !page->cluster || page->cluster->n_pools > 0;
    return has_pools ? DIP_OK : ask_pools(remote, page, ret_end);
}

static Diptych__V1__Pool **pools_of(const struct page *page, size_t *ret_count)
{
    *ret_count = page->hint ? page->hint->n_pools : page->cluster->n_pools;
    return page->hint ? page->hint->pools : page->cluster->pools;
}

static double seconds_of(const Google__Protobuf__Duration *duration)
{
    int64_t ns = 0;
    return dip_duration_decode(duration, &ns) ? (double)ns / 1e9 : 0;
}

/* ---- for people ---- */

static void print_pool(const Diptych__V1__Pool *pool)
{
    printf("%-10s %5u ready %5u draining %5u queued %5u running   oldest wait %.1f s", //
           dip__role_text(pool->role), pool->ready, pool->draining, pool->queued, pool->running,
           seconds_of(pool->oldest_wait));
    if (pool->wanted != pool->ready || pool->reason[0])
        printf("   wanted %u: %s", pool->wanted, pool->reason);
    printf("\n");
}

static void print_cluster(const Diptych__V1__GetClusterResponse *c)
{
    printf("cluster %s, leader %s, epoch %llu\n", c->cluster_id, c->leader[0] ? c->leader : "none",
           (unsigned long long)c->epoch);
    if (c->degraded)
        printf("degraded: %s\n", c->degraded_reason);
}

static void print_page(const struct page *page)
{
    const Diptych__V1__GetClusterResponse *c = page->cluster;
    size_t count;
    Diptych__V1__Pool **pools = pools_of(page, &count);
    print_cluster(c);
    for (size_t i = 0; i < count; i++)
        print_pool(pools[i]);
    printf("\n");
    dip__members_heading(stdout);
    for (int i = 0; i < page->list_count; i++)
        for (size_t k = 0; k < page->lists[i]->n_workers; k++)
            dip__member_print(stdout, page->lists[i]->workers[k]);
}

/* ---- for programs ---- */

static void json_pool(struct json_writer *w, const Diptych__V1__Pool *pool)
{
    dip__json_open(w, NULL, '{');
    dip__json_string(w, "role", dip__role_text(pool->role));
    dip__json_uint(w, "ready", pool->ready);
    dip__json_uint(w, "draining", pool->draining);
    dip__json_uint(w, "queued", pool->queued);
    dip__json_uint(w, "running", pool->running);
    dip__json_real(w, "oldest_wait_s", seconds_of(pool->oldest_wait), 6);
    dip__json_uint(w, "wanted", pool->wanted);
    dip__json_string(w, "reason", pool->reason);
    dip__json_close(w, '}');
}

static void print_json(const struct page *page)
{
    const Diptych__V1__GetClusterResponse *c = page->cluster;
    size_t count;
    Diptych__V1__Pool **pools = pools_of(page, &count);
    struct json_writer w = {.out = stdout};
    dip__json_open(&w, NULL, '{');
    dip__json_string(&w, "cluster_id", c->cluster_id);
    dip__json_string(&w, "leader", c->leader);
    dip__json_uint(&w, "epoch", c->epoch);
    dip__json_int(&w, "etcd_revision", c->etcd_revision);
    dip__json_bool(&w, "degraded", c->degraded);
    dip__json_string(&w, "degraded_reason", c->degraded_reason);
    dip__json_open(&w, "pools", '[');
    for (size_t i = 0; i < count; i++)
        json_pool(&w, pools[i]);
    dip__json_close(&w, ']');
    dip__json_open(&w, "members", '[');
    for (int i = 0; i < page->list_count; i++)
        for (size_t k = 0; k < page->lists[i]->n_workers; k++)
            dip__member_json(&w, NULL, page->lists[i]->workers[k]);
    dip__json_close(&w, ']');
    dip__json_close(&w, '}');
}

/* ---- changes ---- */

struct watching {
    bool is_json;
    bool is_sound;
};

static void print_change(const struct watching *watching,
                         const Diptych__V1__WatchWorkersResponse *change)
{
    if (!change->worker)
        return;
    if (watching->is_json) {
        struct json_writer w = {.out = stdout};
        dip__json_open(&w, NULL, '{');
        dip__json_bool(&w, "removed", change->removed);
        dip__member_json(&w, "member", change->worker);
        dip__json_close(&w, '}');
    } else {
        printf("%s", change->removed ? "gone: " : "");
        dip__member_print(stdout, change->worker);
    }
    fflush(stdout);
}

static void on_change(void *context, const void *data, size_t bytes)
{
    struct watching *watching = context;
    ProtobufCMessage *message = NULL;
    if (dip_proto_decode(&diptych__v1__watch_workers_response__descriptor, data, bytes, NULL,
                         &message)) {
        watching->is_sound = false;
        return;
    }
    print_change(watching, (const Diptych__V1__WatchWorkersResponse *)message);
    dip_proto_free(message);
}

static enum exit_code watch_changes(struct remote *remote, bool is_json)
{
    struct watching watching = {.is_json = is_json, .is_sound = true};
    struct remote_call call = {.on_message = on_change, .context = &watching};
    struct remote_retry retry = {.attempts_max = REMOTE_RETURNS_MAX};
    Diptych__V1__WatchWorkersRequest request = DIPTYCH__V1__WATCH_WORKERS_REQUEST__INIT;
    for (;;) {
        if (dip__remote_begin(remote, "/diptych.v1.ClusterService/WatchWorkers", &request.base,
                              &call))
            return EXIT_FAILED;
        while (call.call && watching.is_sound && !dip__signals_came())
            dip__remote_turn(remote, &call, DIP_SECOND_NS);
        dip__remote_cancel(remote, &call);
        if (dip__signals_came())
            return EXIT_DONE;
        if (call.end.code == DIP_RPC_OK)
            call.end.code = DIP_RPC_UNAVAILABLE; /* it never ends by itself: the server goes */
        if (!watching.is_sound || !dip__remote_may_retry(remote, &call.end, &retry) ||
            !dip__remote_wait(remote, retry.wait_ns))
            break;
    }
    return dip__signals_came() ? EXIT_DONE : dip__remote_fail(remote, &call.end);
}

/* ---- the command ---- */

static enum exit_code show_once(struct remote *remote, bool is_json, bool is_redrawn)
{
    struct page page = {0};
    struct remote_end end = {0};
    enum exit_code code = EXIT_DONE;
    enum dip_status status = ask_page(remote, &page, &end);
    if (status == DIP_CANCELLED) {
        code = EXIT_DONE;
    } else if (status) {
        fprintf(stderr, "error: %s: %s\n", remote->target, dip_status_text(status));
        code = EXIT_FAILED;
    } else if (end.code != DIP_RPC_OK) {
        if (page.cluster && !is_json) { /* what one knows who does not lead */
            print_cluster(page.cluster);
            fflush(stdout);
        }
        code = dip__remote_fail(remote, &end);
    } else {
        if (is_redrawn)
            printf("\033[H\033[2J");
        if (is_json)
            print_json(&page);
        else
            print_page(&page);
        fflush(stdout);
    }
    page_deinit(&page);
    return code;
}

static enum exit_code watch_page(struct remote *remote)
{
    enum exit_code code = EXIT_DONE;
    while (code == EXIT_DONE && !dip__signals_came()) {
        remote->deadline_ns = dip_clock_now_ns() + TIMEOUT_S * DIP_SECOND_NS;
        code = show_once(remote, false, true);
        if (code == EXIT_DONE)
            (void)dip__remote_wait(remote, DIP_SECOND_NS);
    }
    return code;
}

enum exit_code dip__status(const struct arguments *arguments)
{
    const struct options *o = &arguments->options;
    struct remote remote = {0};
    struct dip_why why = {0};
    dip__signals_catch();
    enum dip_status status = dip__remote_open(o, TIMEOUT_S, &why, &remote);
    if (status)
        return dip__fail(status, &why);
    enum exit_code code;
    if (o->watch && !dip__is_given(o, &o->timeout))
        remote.deadline_ns = 0;
    if (!o->watch)
        code = show_once(&remote, o->json, false);
    else if (!o->json && isatty(STDOUT_FILENO))
        code = watch_page(&remote);
    else
        code = watch_changes(&remote, o->json);
    dip__remote_close(&remote);
    return code;
}
