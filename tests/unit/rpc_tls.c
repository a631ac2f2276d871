/* tests/unit/rpc_tls.c - certificates: who is let in, who is not, and a change while serving.
 *
 * The certificates are made here, by two authorities: one that both sides trust, one that nobody
 * does. */
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "tests/unit/rpc_harness.h"

struct authority {
    EVP_PKEY *key;
    X509 *certificate;
};

static char folder[] = "/tmp/dip-rpc-tls-XXXXXX";

static const char *path_of(const char *name)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void add_extension(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* Signed by `by`, or by itself. Valid from start to end seconds from now. */
static X509 *certificate_new(EVP_PKEY *key, const struct authority *by, const char *name,
                             const char *alternatives, long start, long end)
{
    static long serial = 1;
    X509 *certificate = X509_new();
    assert_non_null(certificate);
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
    X509_gmtime_adj(X509_getm_notBefore(certificate), start);
    X509_gmtime_adj(X509_getm_notAfter(certificate), end);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(by ? by->certificate : certificate));
    if (!by)
        add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    if (alternatives)
        add_extension(certificate, NID_subject_alt_name, alternatives);
    assert_true(X509_sign(certificate, by ? by->key : key, EVP_sha256()) > 0);
    return certificate;
}

static struct authority authority_new(const char *name)
{
    struct authority made = {.key = EVP_EC_gen("P-256")};
    made.certificate = certificate_new(made.key, NULL, name, NULL, -60, 86400);
    return made;
}

static void authority_free(struct authority *authority)
{
    X509_free(authority->certificate);
    EVP_PKEY_free(authority->key);
}

/* Renamed into place, as a secret's update is. */
static void write_certificate(const char *name, X509 *certificate)
{
    FILE *file = fopen(path_of("new"), "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, certificate), 1);
    fclose(file);
    assert_int_equal(rename(path_of("new"), path_of(name)), 0);
}

static void write_key(const char *name, EVP_PKEY *key)
{
    FILE *file = fopen(path_of("new"), "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    assert_int_equal(rename(path_of("new"), path_of(name)), 0);
}

static void issue(const struct authority *by, const char *prefix, const char *alternatives,
                  long start, long end)
{
    char name[64];
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = certificate_new(key, by, prefix, alternatives, start, end);
    snprintf(name, sizeof name, "%s.pem", prefix);
    write_certificate(name, certificate);
    snprintf(name, sizeof name, "%s.key", prefix);
    write_key(name, key);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static struct authority ours, theirs;
static struct dip_rpc_tls *server_tls;
static struct pair p;

static int make_files(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    ours = authority_new("ours");
    theirs = authority_new("theirs");
    write_certificate("ours.pem", ours.certificate);
    write_certificate("theirs.pem", theirs.certificate);
    issue(&ours, "server", "DNS:localhost,IP:127.0.0.1", -60, 3600);
    issue(&ours, "client", "DNS:worker-7.diptych.local", -60, 3600);
    issue(&ours, "nameless", NULL, -60, 3600);
    issue(&ours, "expired", "DNS:localhost", -7200, -3600);
    issue(&ours, "early", "DNS:localhost", 3600, 7200);
    issue(&theirs, "stranger", "DNS:worker-7.diptych.local", -60, 3600);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    char command[64];
    authority_free(&ours);
    authority_free(&theirs);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static enum dip_status open_tls(const char *prefix, const char *key_prefix, const char *ca,
                                struct dip_why *why, struct dip_rpc_tls **ret_tls)
{
    char cert[160], key[160];
    snprintf(cert, sizeof cert, "%s/%s.pem", folder, prefix ? prefix : "");
    snprintf(key, sizeof key, "%s/%s.key", folder, key_prefix ? key_prefix : "");
    struct dip_rpc_tls_files files = {
        .cert = prefix ? cert : NULL, .key = prefix ? key : NULL, .ca = ca ? path_of(ca) : NULL};
    return dip_rpc_tls_open(&files, why, ret_tls);
}

static int serve(void **state)
{
    (void)state;
    memset(&p, 0, sizeof p);
    struct dip_why why = {0};
    assert_int_equal(open_tls("server", "server", "ours.pem", &why, &server_tls), DIP_OK);
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &p.loop), DIP_OK);
    pair_methods(&p);
    pair_serve(&p, &(struct dip_rpc_server_options){.tls = server_tls});
    pair_connect(&p); /* plaintext, for the harness; never used */
    return 0;
}

static int unserve(void **state)
{
    (void)state;
    pair_close(&p);
    dip_rpc_tls_close(server_tls);
    return 0;
}

/* How a call ends with these files on a channel of its own; the server's last identity in
 * `identity`. */
static int call_with(const char *prefix, const char *ca, const char *name, struct seen *seen,
                     char *identity, size_t bytes)
{
    struct dip_why why = {0};
    struct dip_rpc_tls *tls = NULL;
    struct dip_rpc_channel *channel;
    struct dip_rpc_call *call;
    memset(seen, 0, sizeof *seen);
    if (ca && open_tls(prefix, prefix, ca, &why, &tls))
        fail_msg("%s", why.text);
    assert_int_equal(dip_rpc_channel_open(
                         &(struct dip_rpc_channel_options){
                             .loop = p.loop, .target = p.target, .tls = tls, .tls_name = name},
                         &why, &channel),
                     DIP_OK);
    int before = p.served[HANG_STREAM].opens;
    assert_int_equal(dip_rpc_call_open(channel,
                                       &(struct dip_rpc_call_options){.path = "/t.T/HangStream",
                                                                      .handler = &seen_handler,
                                                                      .context = seen},
                                       &call),
                     DIP_OK);
    WAIT_UNTIL(p.loop, seen->closes || p.served[HANG_STREAM].opens > before);
    if (p.served[HANG_STREAM].opens > before) {
        identity[0] = '\0';
        dip_rpc_call_identity(p.served[HANG_STREAM].call, identity, bytes);
        finish_ok(p.served[HANG_STREAM].call);
        WAIT_UNTIL(p.loop, seen->closes);
    }
    dip_rpc_channel_close(channel);
    dip_rpc_tls_close(tls);
    return seen->code;
}

static void a_known_certificate_is_let_in_and_named(void **state)
{
    (void)state;
    struct seen seen;
    char identity[64];
    assert_int_equal(call_with("client", "ours.pem", NULL, &seen, identity, sizeof identity),
                     DIP_RPC_OK);
    assert_string_equal(identity, "worker-7.diptych.local");
    assert_int_equal(call_with("nameless", "ours.pem", NULL, &seen, identity, sizeof identity),
                     DIP_RPC_OK);
    assert_string_equal(identity, "nameless");
    assert_int_equal(call_with("client", "ours.pem", "localhost", &seen, identity, 9), DIP_RPC_OK);
    assert_string_equal(identity, "worker-7");
}

static void everybody_else_is_not(void **state)
{
    (void)state;
    struct seen seen;
    char identity[64];
    static const struct {
        const char *prefix, *ca, *name;
    } bad[] = {
        {NULL, "ours.pem", NULL},                /* no certificate of its own */
        {"stranger", "ours.pem", NULL},          /* one that the server does not know */
        {"client", "theirs.pem", NULL},          /* the client does not know the server's */
        {"client", "ours.pem", "elsewhere.org"}, /* nor its name */
        {NULL, NULL, NULL},                      /* plaintext to a TLS port */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int code =
            call_with(bad[i].prefix, bad[i].ca, bad[i].name, &seen, identity, sizeof identity);
        assert_int_equal(code, DIP_RPC_UNAVAILABLE);
    }
    assert_int_equal(p.served[HANG_STREAM].opens, 0);
}

/* The server's files change under it: old and new at odds are not taken, new ones are. */
static void a_new_certificate_is_used_without_a_restart(void **state)
{
    (void)state;
    struct seen seen;
    char identity[64];
    assert_int_equal(call_with("client", "ours.pem", "localhost", &seen, identity, 64), DIP_RPC_OK);
    assert_int_equal(call_with("client", "ours.pem", "second.org", &seen, identity, 64),
                     DIP_RPC_UNAVAILABLE);

    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = certificate_new(key, &ours, "server", "DNS:second.org", -60, 3600);
    write_certificate("server.pem", certificate); /* the key of the old one is still there */
    assert_int_equal(call_with("client", "ours.pem", "localhost", &seen, identity, 64), DIP_RPC_OK);
    write_key("server.key", key);
    assert_int_equal(call_with("client", "ours.pem", "second.org", &seen, identity, 64),
                     DIP_RPC_OK);
    assert_int_equal(call_with("client", "ours.pem", "localhost", &seen, identity, 64),
                     DIP_RPC_UNAVAILABLE);

    /* The roots, too: the client's authority is no longer wanted. */
    X509 *roots = theirs.certificate;
    write_certificate("ours-for-server.pem", ours.certificate);
    write_certificate("ours.pem", roots);
    write_certificate("keep.pem", ours.certificate);
    assert_int_equal(call_with("client", "keep.pem", "second.org", &seen, identity, 64),
                     DIP_RPC_UNAVAILABLE);
    assert_int_equal(call_with("stranger", "keep.pem", "second.org", &seen, identity, 64),
                     DIP_RPC_OK);
    write_certificate("ours.pem", ours.certificate);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

/* A channel takes new files for the next call; what is open goes on. */
static void a_channel_takes_a_new_certificate(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_rpc_tls *tls;
    struct seen first, second;
    char identity[64] = "";
    issue(&ours, "server", "DNS:localhost,IP:127.0.0.1", -60, 3600);
    issue(&ours, "rolling", "DNS:before.org", -60, 3600);
    assert_int_equal(open_tls("rolling", "rolling", "ours.pem", &why, &tls), DIP_OK);
    struct dip_rpc_channel *plain = p.channel;
    assert_int_equal(
        dip_rpc_channel_open(
            &(struct dip_rpc_channel_options){.loop = p.loop, .target = p.target, .tls = tls}, &why,
            &p.channel),
        DIP_OK);
    struct dip_rpc_call *standing = pair_call(&p, CHAT, &first, 0);
    assert_int_equal(send_text(standing, "one", 0), DIP_OK);
    WAIT_UNTIL(p.loop, first.messages == 1);
    issue(&ours, "rolling", "DNS:after.org", -60, 3600);
    int64_t until_ns = dip_clock_now_ns() + INT64_C(1100) * DIP_MS_NS; /* looks once a second */
    while (dip_clock_now_ns() < until_ns)
        dip_rpc_loop_turn(p.loop, INT64_C(100) * DIP_MS_NS);
    pair_call(&p, HANG_STREAM, &second, 0);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);
    assert_true(dip_rpc_call_identity(p.served[HANG_STREAM].call, identity, sizeof identity));
    assert_string_equal(identity, "after.org");
    assert_int_equal(send_text(standing, "two", 0), DIP_OK);
    WAIT_UNTIL(p.loop, first.messages == 2);
    assert_true(dip_rpc_call_identity(p.served[CHAT].call, identity, sizeof identity));
    assert_string_equal(identity, "before.org");
    dip_rpc_call_half_close(standing);
    finish_ok(p.served[HANG_STREAM].call);
    WAIT_UNTIL(p.loop, first.closes && second.closes);
    assert_int_equal(first.code, DIP_RPC_OK);
    dip_rpc_channel_close(p.channel);
    p.channel = plain;
    dip_rpc_loop_turn(p.loop, 0);
    dip_rpc_tls_close(tls);
}

static void wrong_files_are_named_at_the_start(void **state)
{
    (void)state;
    static const struct {
        const char *cert, *key, *ca;
        enum dip_status status;
        const char *words;
    } bad[] = {
        {"client", "nameless", NULL, DIP_INVALID, "does not belong"},
        {"expired", "expired", NULL, DIP_INVALID, "expired"},
        {"early", "early", NULL, DIP_INVALID, "not valid yet"},
        {"client", "client", "client.key", DIP_CORRUPT, "client.key holds no PEM certificate"},
        {"client", "none", NULL, DIP_NOT_FOUND, "none.key"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct dip_why why = {0};
        struct dip_rpc_tls *tls = NULL;
        assert_int_equal(open_tls(bad[i].cert, bad[i].key, bad[i].ca, &why, &tls), bad[i].status);
        assert_null(tls);
        if (!strstr(why.text, bad[i].words))
            fail_msg("\"%s\" does not say \"%s\"", why.text, bad[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_known_certificate_is_let_in_and_named, serve, unserve),
        cmocka_unit_test_setup_teardown(everybody_else_is_not, serve, unserve),
        cmocka_unit_test_setup_teardown(a_new_certificate_is_used_without_a_restart, serve,
                                        unserve),
        cmocka_unit_test_setup_teardown(a_channel_takes_a_new_certificate, serve, unserve),
        cmocka_unit_test(wrong_files_are_named_at_the_start),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
