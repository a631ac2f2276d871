/* tests/unit/service_tokens.c - a coordinator that asks for tokens: who may do what, told as the
 * error table says, and nobody sees what is another tenant's. */
#include <unistd.h>

#include "tests/unit/service_harness.h"

#include "base/file.h"
#include "net/tokens.h"

static struct dip_tokens *tokens;
static char path[] = "/tmp/diptych-service-tokens-XXXXXX";

static const struct dip_rpc_pair reader = {"authorization", "Bearer only-reads"};
static const struct dip_rpc_pair maker = {"authorization", "Bearer makes-images"};
static const struct dip_rpc_pair other = {"authorization", "Bearer other-tenant"};
static const struct dip_rpc_pair boss = {"authorization", "Bearer runs-it-all"};
static const struct dip_rpc_pair stranger = {"authorization", "Bearer unheard-of"};
static const struct dip_rpc_pair basic = {"authorization", "Basic bWFrZXMtaW1hZ2Vz"};

static int setup(void **state)
{
    static const char text[] = "plain:only-reads a read\nplain:makes-images a generate\n"
                               "plain:other-tenant b generate\nplain:runs-it-all ops admin\n";
    (void)state;
    memset(&f, 0, sizeof f);
    if (dip_file_write(path, text, sizeof text - 1, NULL) || dip_tokens_open(path, NULL, &tokens))
        return 1;
    f.options.tokens = tokens;
    f.options.tenant_request_count_max = 4;
    front_open(&f);
    return 0;
}

static int teardown(void **state)
{
    front_teardown(state);
    dip_tokens_close(tokens);
    return unlink(path);
}

static void generate(const char *id, const struct dip_rpc_pair *header, struct answer *answer)
{
    Diptych__V1__GenerateRequest request = a_request(id);
    answer_free(answer);
    ask(&f,
        &(struct asking){.path = "/diptych.v1.ImageService/Generate",
                         .headers = header,
                         .header_count = header ? 1 : 0,
                         .is_events = true},
        &request.base, answer);
    WAIT_UNTIL(f.loop, answer->closes);
}

static void call(const char *method, const ProtobufCMessage *request,
                 const struct dip_rpc_pair *header)
{
    answer_free(&a);
    ask(&f, &(struct asking){.path = method, .headers = header, .header_count = header ? 1 : 0},
        request, &a);
    WAIT_UNTIL(f.loop, a.closes);
}

static void scopes_are_asked_for(void **state)
{
    (void)state;
    static const char get_cluster[] = "/diptych.v1.ClusterService/GetCluster";
    static const char drain[] = "/diptych.v1.ClusterService/Drain";
    Diptych__V1__GetClusterRequest cluster = DIPTYCH__V1__GET_CLUSTER_REQUEST__INIT;
    Diptych__V1__DrainRequest wish = DIPTYCH__V1__DRAIN_REQUEST__INIT;
    wish.worker = (char *)(uintptr_t) "nobody";

    generate("", NULL, &a);
    check_error(&a, DIP_REASON_NO_CREDENTIAL);
    generate("", &stranger, &a);
    check_error(&a, DIP_REASON_BAD_CREDENTIAL);
    generate("", &basic, &a);
    check_error(&a, DIP_REASON_BAD_CREDENTIAL);
    assert_null(strstr(a.text, "bWFr")); /* what was shown is not shown to others */
    generate("", &reader, &a);
    check_error(&a, DIP_REASON_ROLE_REQUIRED);
    generate("", &boss, &a);
    check_error(&a, DIP_REASON_ROLE_REQUIRED);
    generate("", &maker, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_true(a.files[0].is_right);

    call(get_cluster, &cluster.base, NULL);
    check_error(&a, DIP_REASON_NO_CREDENTIAL);
    call(get_cluster, &cluster.base, &reader);
    assert_int_equal(a.code, DIP_RPC_OK);
    call(get_cluster, &cluster.base, &maker);
    assert_int_equal(a.code, DIP_RPC_OK);
    call(drain, &wish.base, &maker);
    check_error(&a, DIP_REASON_ROLE_REQUIRED);
    call(drain, &wish.base, &boss);
    assert_int_equal(a.code, DIP_RPC_NOT_FOUND);
}

static void tenants_do_not_see_each_other(void **state)
{
    (void)state;
    Diptych__V1__WatchRequest watch = DIPTYCH__V1__WATCH_REQUEST__INIT;
    Diptych__V1__CancelRequest cancel = DIPTYCH__V1__CANCEL_REQUEST__INIT;
    watch.request_id = cancel.request_id = (char *)(uintptr_t) "mine";
    generate("mine", &maker, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    uint64_t a_seed = a.seed;
    const struct {
        const struct dip_rpc_pair *who;
        int code;
    } tries[] = {{&other, DIP_RPC_NOT_FOUND}, {&maker, DIP_RPC_OK}};
    for (int i = 0; i < 2; i++) {
        answer_free(&b);
        ask(&f,
            &(struct asking){.path = "/diptych.v1.ImageService/Watch",
                             .headers = tries[i].who,
                             .header_count = 1,
                             .is_events = true},
            &watch.base, &b);
        WAIT_UNTIL(f.loop, b.closes);
        assert_int_equal(b.code, tries[i].code);
        assert_int_equal(b.files[0].is_right, tries[i].code == DIP_RPC_OK);
    }
    call("/diptych.v1.ImageService/Cancel", &cancel.base, &other);
    assert_int_equal(a.code, DIP_RPC_NOT_FOUND);
    /* the other tenant may have an id of the same name: it is another request */
    generate("mine", &other, &b);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_true(b.files[0].is_right);
    assert_int_not_equal(b.seed, a_seed);
    assert_int_equal(dip_stub_stats(f.stub).ar, 2);
    /* each still meets its own under it */
    generate("mine", &maker, &b);
    assert_int_equal(b.seed, a_seed);
    assert_int_equal(dip_stub_stats(f.stub).ar, 2);
}

static double quota_used(int index, const char *expected)
{
    const char *tenant = "";
    double used = -1;
    assert_true(dip_coordinator_daemon_quota(f.daemon, index, &tenant, &used));
    assert_string_equal(tenant, expected);
    return used;
}

static void what_is_left_of_a_quota_is_known(void **state)
{
    (void)state;
    const char *tenant;
    double used;
    assert_true(quota_used(0, "a") == 0);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest request = a_request("");
    const struct asking asking = {.path = "/diptych.v1.ImageService/Generate",
                                  .headers = &maker,
                                  .header_count = 1,
                                  .is_events = true};
    ask(&f, &asking, &request.base, &a);
    WAIT_UNTIL(f.loop, a.event_count > 0);
    assert_true(quota_used(0, "a") == 0.25);
    assert_true(quota_used(1, "b") == 0);
    assert_false(dip_coordinator_daemon_quota(f.daemon, 2, &tenant, &used));
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, a.closes);
    assert_true(quota_used(0, "a") == 0);
}

static void a_new_file_is_in_use_within_a_second(void **state)
{
    (void)state;
    static const char text[] = "plain:unheard-of c generate\n";
    generate("", &stranger, &a);
    check_error(&a, DIP_REASON_BAD_CREDENTIAL);
    assert_int_equal(dip_file_write(path, text, sizeof text - 1, NULL), DIP_OK);
    dip_clock_sleep(1100 * DIP_MS_NS);
    generate("", &stranger, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    generate("", &maker, &a);
    check_error(&a, DIP_REASON_BAD_CREDENTIAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(scopes_are_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(tenants_do_not_see_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_left_of_a_quota_is_known, setup, teardown),
        cmocka_unit_test_setup_teardown(a_new_file_is_in_use_within_a_second, setup, teardown),
    };
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
