/* tests/unit/tokens.c - token files: what is read, what is refused, who a token belongs to, and
 * what happens when the file changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "net/tokens_private.h"

static char folder[] = "/tmp/diptych-tokens-XXXXXX";
static char path[64];
static int64_t now_ns = DIP_SECOND_NS;

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/tokens", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void put(const char *text)
{
    assert_int_equal(dip_file_write(path, text, strlen(text), NULL), DIP_OK);
}

static enum dip_status check(struct dip_tokens *tokens, const char *header,
                             struct dip_token_holder *holder)
{
    return dip_tokens_check(tokens, now_ns, header, strlen(header), holder);
}

static void tokens_have_holders(void **state)
{
    (void)state;
    char hex[DIP_SHA256_HEX_BYTES];
    char text[400];
    struct dip_tokens *tokens = NULL;
    struct dip_token_holder holder = {.tenant = "nobody"};
    assert_int_equal(dip_sha256_hex("sesame-open", 11, hex), DIP_OK);
    hex[0] = (char)(hex[0] >= 'a' ? hex[0] - 32 : hex[0]); /* either case is read */
    snprintf(text, sizeof text,
             "# who may\n\n  sha256:%s\tteam-a   generate # since spring\r\n"
             "plain:a-long-word ops read,admin\nplain:a-long-word late generate\n"
             "plain:only-reads guest_1 read\nplain:of-the-machines rack-1 worker",
             hex);
    put(text);
    assert_int_equal(dip_tokens_open(path, NULL, &tokens), DIP_OK);
    assert_int_equal(dip_tokens_count(tokens), 5);
    assert_int_equal(dip_tokens_scopes(tokens),
                     DIP_SCOPE_READ | DIP_SCOPE_GENERATE | DIP_SCOPE_ADMIN | DIP_SCOPE_WORKER);
    assert_string_equal(dip_tokens_why(tokens), "");
    assert_string_equal(dip_tokens_tenant(tokens, 0), "team-a"); /* who may ask for images */
    assert_string_equal(dip_tokens_tenant(tokens, 1), "late");
    assert_null(dip_tokens_tenant(tokens, 2));
    assert_int_equal(check(tokens, "Bearer of-the-machines", &holder), DIP_OK);
    assert_int_equal(holder.scopes, DIP_SCOPE_WORKER); /* no client's right comes with it */

    assert_int_equal(check(tokens, "Bearer sesame-open", &holder), DIP_OK);
    assert_string_equal(holder.tenant, "team-a");
    assert_int_equal(holder.scopes, DIP_SCOPE_READ | DIP_SCOPE_GENERATE);
    assert_int_equal(check(tokens, "bearer  a-long-word", &holder), DIP_OK);
    assert_string_equal(holder.tenant, "ops"); /* the first of two */
    assert_int_equal(holder.scopes, DIP_SCOPE_READ | DIP_SCOPE_ADMIN);
    assert_int_equal(check(tokens, "BEARER only-reads", &holder), DIP_OK);
    assert_int_equal(holder.scopes, DIP_SCOPE_READ);

    static const struct {
        const char *header;
        enum dip_status status;
    } others[] = {
        {"", DIP_INVALID},
        {"Bearer", DIP_INVALID},
        {"Bearer ", DIP_INVALID},
        {"sesame-open", DIP_INVALID},
        {"Basic sesame-open", DIP_INVALID},
        {"Bearersesame-open", DIP_INVALID},
        {"Bearer sesame open", DIP_INVALID},
        {"Bearer sesame-open ", DIP_INVALID},
        {"Bearer sesame-ope", DIP_NOT_FOUND},
        {"Bearer sesame-opeN", DIP_NOT_FOUND},
        {"Bearer sesame-openn", DIP_NOT_FOUND},
        {"Bearer plain:a-long-word", DIP_INVALID},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct dip_token_holder kept = {.tenant = "kept"};
        assert_int_equal(check(tokens, others[i].header, &kept), others[i].status);
        assert_string_equal(kept.tenant, "kept");
    }
    /* the digest is no token, and neither is one with a zero in it */
    snprintf(text, sizeof text, "Bearer %s", hex);
    assert_int_equal(check(tokens, text, &holder), DIP_NOT_FOUND);
    assert_int_equal(dip_tokens_check(tokens, now_ns, "Bearer only-reads\0x", 19, &holder),
                     DIP_INVALID);
    dip_tokens_close(tokens);
}

static void wrong_lines_are_named_without_their_token(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "secret-word team-a read",
        "plain:short team-a read",
        "plain:secret-word",
        "plain:secret-word team-a",
        "plain:secret-word team-a read generate",
        "plain:secret-word team/a read",
        "plain:secret-word team-a write",
        "plain:secret-word team-a read,",
        "plain:secret-word team-a ,read",
        "plain:secret-word team-a readgenerate",
        "plain:secret\"word team-a read",
        "sha256:secret-word team-a read",
        "sha256:zz3456789012345678901234567890123456789012345678901234567890secr team-a read",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char text[300];
        struct dip_why why = {0};
        struct dip_tokens *tokens = NULL;
        snprintf(text, sizeof text, "# one\nplain:good-word a read\n%s\n", lines[i]);
        put(text);
        assert_int_equal(dip_tokens_open(path, &why, &tokens), DIP_INVALID);
        if (!strstr(why.text, "line 3") || !strstr(why.text, path) || strstr(why.text, "secr"))
            fail_msg("%s: %s", lines[i], why.text);
        assert_null(tokens);
    }
    struct dip_tokens *tokens = NULL;
    put("");
    assert_int_equal(dip_tokens_open(path, NULL, &tokens), DIP_INVALID);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(dip_tokens_open(path, NULL, &tokens), DIP_NOT_FOUND);
}

static void a_changed_file_is_taken_within_a_second(void **state)
{
    (void)state;
    struct dip_tokens *tokens = NULL;
    struct dip_token_holder holder;
    put("plain:first-one a read\n");
    assert_int_equal(dip_tokens_open(path, NULL, &tokens), DIP_OK);
    assert_int_equal(check(tokens, "Bearer first-one", &holder), DIP_OK);
    put("plain:first-one b read\nplain:second-one b generate\n");
    assert_int_equal(check(tokens, "Bearer second-one", &holder), DIP_NOT_FOUND); /* not yet */
    now_ns += DIP_SECOND_NS;
    assert_int_equal(check(tokens, "Bearer second-one", &holder), DIP_OK);
    assert_int_equal(check(tokens, "Bearer first-one", &holder), DIP_OK);
    assert_string_equal(holder.tenant, "b");

    /* broken, empty, gone: the last good one stays, and it is said */
    static const char *const bad[] = {"nonsense\n", "", NULL};
    for (int i = 0; i < 3; i++) {
        if (bad[i])
            put(bad[i]);
        else
            assert_int_equal(unlink(path), 0);
        now_ns += DIP_SECOND_NS;
        assert_int_equal(check(tokens, "Bearer second-one", &holder), DIP_OK);
        assert_non_null(strstr(dip_tokens_why(tokens), path));
        assert_int_equal(dip_tokens_count(tokens), 2);
    }
    put("# nobody any more\n");
    now_ns += DIP_SECOND_NS;
    assert_int_equal(check(tokens, "Bearer second-one", &holder), DIP_NOT_FOUND);
    assert_string_equal(dip_tokens_why(tokens), "");
    assert_int_equal(dip_tokens_count(tokens), 0);
    dip_tokens_close(tokens);
}

static void the_table_is_bounded(void **state)
{
    (void)state;
    enum { LINE = 32 };
    char *text = malloc((DIP_TOKENS_MAX + 1) * LINE);
    struct dip__token_table table = {0};
    struct dip_why why = {0};
    size_t bytes = 0;
    assert_non_null(text);
    for (int i = 0; i <= DIP_TOKENS_MAX; i++)
        bytes += (size_t)snprintf(text + bytes, LINE, "plain:token-%04d t%d read\n", i, i);
    assert_int_equal(dip__tokens_parse(text, bytes, &why, &table), DIP_LIMIT);
    assert_int_equal(table.count, 0);
    bytes = (size_t)(strstr(text, "plain:token-4096") - text);
    assert_int_equal(dip__tokens_parse(text, bytes, NULL, &table), DIP_OK);
    assert_int_equal(table.count, DIP_TOKENS_MAX);

    /* every one finds its own holder and no other, wherever it stands */
    int64_t begin_ns = dip_clock_now_ns();
    for (int i = 0; i < DIP_TOKENS_MAX; i += 37) {
        char token[32], hex[DIP_SHA256_HEX_BYTES], tenant[32];
        int length = snprintf(token, sizeof token, "token-%04d", i);
        snprintf(tenant, sizeof tenant, "t%d", i);
        assert_int_equal(dip_sha256_hex(token, (size_t)length, hex), DIP_OK);
        const struct dip_token_holder *holder = dip__tokens_find(&table, hex);
        assert_non_null(holder);
        assert_string_equal(holder->tenant, tenant);
    }
    printf("%.1f us to look one up among %d\n",
           (double)(dip_clock_now_ns() - begin_ns) / 1e3 / (DIP_TOKENS_MAX / 37 + 1), table.count);
    dip__tokens_table_free(&table);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_have_holders),
        cmocka_unit_test(wrong_lines_are_named_without_their_token),
        cmocka_unit_test(a_changed_file_is_taken_within_a_second),
        cmocka_unit_test(the_table_is_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
