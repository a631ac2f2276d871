/* tests/unit/origin.c - by what a request is known again: everything that decides its pictures, and
 * who asks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/core.h"

static int32_t prompt_ids[] = {3, 5, 8, 13};

static struct dip_resolved any_resolved(void)
{
    return (struct dip_resolved){.image_count = 1,
                                 .params = {.seed = 1,
                                            .token_count = 16,
                                            .temperature = 1,
                                            .top_k = 50,
                                            .top_p = 0.9f,
                                            .steps = 20,
                                            .guidance = 2,
                                            .latent_height = 4,
                                            .latent_width = 8},
                                 .digest = "abc",
                                 .prompt_ids = {prompt_ids, sizeof prompt_ids}};
}

static struct dip_job_origin origin_of(const struct dip_resolved *resolved, const char *tenant,
                                       const char *id)
{
    struct dip_job_origin origin;
    assert_int_equal(dip_origin_make(resolved, tenant, id, "", &origin), DIP_OK);
    return origin;
}

static void differs(const struct dip_job_origin *a, const struct dip_job_origin *b)
{
    assert_memory_not_equal(a->digest, b->digest, DIP_DIGEST_BYTES);
}

static void an_equal_request_is_known_again(void **state)
{
    (void)state;
    struct dip_resolved a = any_resolved(), b = any_resolved();
    int32_t copy[4];
    memcpy(copy, prompt_ids, sizeof copy);
    b.prompt_ids.data = copy;
    b.params.preview_every = 3; /* decides no byte of a picture */
    struct dip_job_origin x = origin_of(&a, "t", "id"), y = origin_of(&b, "t", "id");
    assert_memory_equal(x.digest, y.digest, DIP_DIGEST_BYTES);
    assert_string_equal(x.request_id, "id");
}

static void whatever_decides_a_byte_decides_the_digest(void **state)
{
    (void)state;
    struct dip_resolved one = any_resolved();
    struct dip_job_origin origin = origin_of(&one, "t", "id");
    struct dip_resolved others[13];
    for (int i = 0; i < 13; i++)
        others[i] = any_resolved();
    int32_t other_ids[] = {3, 5, 8, 14};
    others[0].params.seed = 2;
    others[1].params.token_count = 17;
    others[2].params.temperature = 1.0000001f;
    others[3].params.top_k = 51;
    others[4].params.top_p = 0.8999999f;
    others[5].params.sampler = DIP_JOB_DPM;
    others[6].params.steps = 21;
    others[7].params.guidance = 2.0000002f;
    others[8].params.latent_height = 8;
    others[9].params.latent_width = 4;
    others[10].digest[0] = 'b';
    others[11].prompt_ids.data = other_ids;
    others[12].prompt_ids.bytes -= sizeof prompt_ids[0];
    for (int i = 0; i < 13; i++) {
        struct dip_job_origin other = origin_of(&others[i], "t", "id");
        differs(&origin, &other);
    }
}

/* Nobody gets what another tenant has asked for, nor what was asked for under another id. */
static void who_asks_decides_it_too(void **state)
{
    (void)state;
    struct dip_resolved one = any_resolved();
    struct dip_job_origin origin = origin_of(&one, "t", "id");
    struct dip_job_origin tenant = origin_of(&one, "u", "id"), id = origin_of(&one, "t", "ie");
    struct dip_job_origin shifted = origin_of(&one, "t\nrequest id", "");
    differs(&origin, &tenant);
    differs(&origin, &id);
    differs(&origin, &shifted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_equal_request_is_known_again),
        cmocka_unit_test(whatever_decides_a_byte_decides_the_digest),
        cmocka_unit_test(who_asks_decides_it_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
