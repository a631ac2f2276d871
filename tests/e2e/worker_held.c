/* tests/e2e/worker_held.c - worker processes whose coordinator goes: they hold what they have, say
 * so to the next one, and go on under its name for it; bytes and tokens are as if nothing had been.
 */
#include "tests/e2e/worker_cluster.h"

enum { STEPS = 20, MANY_STEPS = 1000, MANY_TOKENS = CLUSTER_TOKENS_MAX };

static void change_leader(struct cluster *c, uint64_t epoch, int joins)
{
    cluster_change_leader(c, epoch);
    UNTIL(c, c->joins == joins);
}

static uint32_t named(const struct cluster *c, const char *name)
{
    uint32_t member = cluster_find(c, name);
    if (member == 0)
        fail_msg("%s has not come", name);
    return member;
}

/* The one thing of this stage that the member holds. */
static const struct dip_held *held_at(const struct cluster *c, uint32_t member,
                                      enum dip_held_stage stage)
{
    const struct heard_member *m = &c->members[member];
    const struct dip_held *found = NULL;
    for (int i = 0; i < m->held_count; i++) {
        if (m->held[i].stage != stage)
            continue;
        assert_null(found);
        found = &m->held[i];
    }
    assert_non_null(found);
    assert_true(found->left_ns > 0 && found->left_ns <= 60 * DIP_SECOND_NS);
    return found;
}

static void tell_ar_long(struct cluster *c, uint32_t to, uint64_t job_id, uint32_t image_index)
{
    struct dip_message message = {.kind = DIP_MESSAGE_AR, .job_id = job_id};
    message.as.ar.params = job_params(STEPS);
    message.as.ar.params.token_count = MANY_TOKENS;
    message.as.ar.params.image_index = image_index;
    message.as.ar.origin.digest[0] = c->digest;
    int32_t *ids = malloc(PROMPT_IDS * sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < PROMPT_IDS; i++)
        ids[i] = 3 + i;
    message.as.ar.prompt_ids = (struct dip_payload){ids, PROMPT_IDS * sizeof *ids};
    tell(c, to, &message);
}

static void until_ended(struct cluster *c, uint64_t job_id)
{
    struct heard_job *job = job_of(c, job_id);
    UNTIL(c, job->images || job->hinge_ready || job->failed);
    assert_string_equal(job->text, "");
}

/* A picture that is made, a picture on its way, and the hinge of both. */
static void pictures_and_hinges_are_taken_over(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    c.digest = 5;
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", NULL);
    tell_ar(&c, ar, 50, STEPS);
    until_ended(&c, 50);
    tell_diffusion(&c, diffusion, 51, STEPS);
    tell_hand_over(&c, ar, 50, diffusion, 51);
    until_ended(&c, 51);
    size_t bytes = job_of(&c, 51)->png_bytes;
    unsigned char *png = job_of(&c, 51)->png;
    job_of(&c, 51)->png = NULL;
    tell_diffusion(&c, diffusion, 52, MANY_STEPS);
    tell_hand_over(&c, ar, 50, diffusion, 52);
    UNTIL(&c, job_of(&c, 52)->steps > 2);
    change_leader(&c, 2, 2);
    ar = named(&c, "ar");
    diffusion = named(&c, "diffusion");

    assert_int_equal(c.members[ar].held_count, 1);
    assert_int_equal(c.members[diffusion].held_count, 2);
    const struct dip_held *hinge = held_at(&c, ar, DIP_HELD_HINGE);
    const struct dip_held *steps = held_at(&c, diffusion, DIP_HELD_STEPS);
    const struct dip_held *picture = held_at(&c, diffusion, DIP_HELD_PICTURE);
    assert_true(hinge->epoch == 1 && hinge->job_id == 50 && hinge->digest[0] == 5);
    assert_true(hinge->done == 16 && hinge->id_count == 16);
    assert_true(steps->epoch == 1 && steps->job_id == 52 && steps->done > 2);
    assert_true(picture->epoch == 1 && picture->job_id == 51);
    assert_int_equal(picture->token_count, 16);

    tell_adopt(&c, diffusion, steps, 61);   /* first: it goes on meanwhile, and must not be done */
    tell_adopt(&c, diffusion, picture, 51); /* another job 51 than before */
    until_ended(&c, 51);
    assert_int_equal(job_of(&c, 51)->png_bytes, bytes);
    assert_memory_equal(job_of(&c, 51)->png, png, bytes);
    free(png);

    UNTIL(&c, job_of(&c, 61)->conditioned);
    until_ended(&c, 61);
    assert_int_equal(job_of(&c, 61)->steps, MANY_STEPS);
    tell_adopt(&c, ar, hinge, 60);
    until_ended(&c, 60);
    assert_int_equal(job_of(&c, 60)->tokens, 16);
    tell_diffusion(&c, diffusion, 62, MANY_STEPS);
    tell_hand_over(&c, ar, 60, diffusion, 62);
    until_ended(&c, 62);
    assert_int_equal(job_of(&c, 61)->png_bytes, job_of(&c, 62)->png_bytes);
    assert_memory_equal(job_of(&c, 61)->png, job_of(&c, 62)->png, job_of(&c, 62)->png_bytes);
    cluster_close(&c);
}

/* Tokens go on being drawn without a coordinator; the next one hears all of them. */
static void tokens_are_taken_over(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    tell_ar_long(&c, ar, 40, 0); /* without a digest: nobody could know it again */
    until_ended(&c, 40);
    c.digest = 7;
    tell_ar_long(&c, ar, 41, 0);
    UNTIL(&c, job_of(&c, 41)->tokens > 0);
    int32_t expected[256];
    memcpy(expected, job_of(&c, 40)->token_ids, sizeof expected);
    change_leader(&c, 2, 1);
    ar = named(&c, "ar");
    assert_int_equal(c.members[ar].held_count, 1);
    const struct dip_held *held = &c.members[ar].held[0];
    assert_true(held->job_id == 41 && held->id_count > 0);
    tell_adopt(&c, ar, held, 90);
    until_ended(&c, 90);
    assert_int_equal(job_of(&c, 90)->tokens, MANY_TOKENS);
    assert_memory_equal(job_of(&c, 90)->token_ids, expected, MANY_TOKENS * sizeof expected[0]);
    cluster_close(&c);
}

/* Two held jobs have both slots. What the new leader asks for does not wait for them, and one of
 * them that is adopted later goes on from the tokens that it has. */
static void what_is_held_gives_way(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    for (uint64_t i = 0; i < 2; i++) { /* what is right, and the time that it takes */
        tell_ar_long(&c, ar, 30 + i, (uint32_t)i);
        until_ended(&c, 30 + i);
    }
    int32_t expected[2][256];
    for (uint64_t i = 0; i < 2; i++)
        memcpy(expected[i], job_of(&c, 30 + i)->token_ids, sizeof expected[i]);
    c.digest = 7;
    tell_ar_long(&c, ar, 41, 0);
    tell_ar_long(&c, ar, 42, 1);
    UNTIL(&c, job_of(&c, 41)->tokens > 0 && job_of(&c, 42)->tokens > 0);
    change_leader(&c, 2, 1);
    ar = named(&c, "ar");
    assert_int_equal(c.members[ar].held_count, 2);
    struct dip_held held[2] = {c.members[ar].held[0], c.members[ar].held[1]};
    tell_ar_long(&c, ar, 51, 0);
    tell_ar_long(&c, ar, 52, 1);
    until_ended(&c, 51);
    until_ended(&c, 52);
    for (uint64_t i = 0; i < 2; i++) {
        int image = held[i].job_id == 41 ? 0 : 1;
        tell_adopt(&c, ar, &held[i], 60 + i);
        until_ended(&c, 60 + i);
        assert_int_equal(job_of(&c, 60 + i)->tokens, MANY_TOKENS);
        assert_memory_equal(job_of(&c, 60 + i)->token_ids, expected[image],
                            MANY_TOKENS * sizeof expected[0][0]);
    }
    cluster_close(&c);
}

/* Its time is over, or nobody wants it: then it is not there any more, and who asks is told so. */
static void what_is_held_is_forgotten(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    c.digest = 9;
    uint32_t long_hold = cluster_start(&c, "a", "long", NULL);
    uint32_t short_hold = cluster_start(&c, "as", "short", NULL);
    tell_ar(&c, long_hold, 10, STEPS);
    tell_ar(&c, short_hold, 11, STEPS);
    until_ended(&c, 10);
    until_ended(&c, 11);
    change_leader(&c, 2, 2);
    long_hold = named(&c, "long");
    short_hold = named(&c, "short");
    const struct dip_held *held = held_at(&c, long_hold, DIP_HELD_HINGE);
    tell_adopt(&c, long_hold, held, 0); /* forget it */
    UNTIL(&c, c.members[long_hold].beat.hinges_held == 0 && c.members[long_hold].heartbeats > 2);
    tell_adopt(&c, long_hold, held, 20);
    UNTIL(&c, job_of(&c, 20)->failed);
    assert_int_equal(job_of(&c, 20)->status, DIP_CANCELLED);
    UNTIL(&c, c.members[short_hold].beat.hinges_held == 0 && c.members[short_hold].heartbeats > 2);
    change_leader(&c, 3, 2);
    assert_int_equal(c.members[named(&c, "long")].held_count, 0);
    assert_int_equal(c.members[named(&c, "short")].held_count, 0);
    cluster_close(&c);
}

/* kill -9 in mid-sampling: another process goes on from the last checkpoint, for both samplers. */
static void a_checkpoint_goes_on_in_another_process(void **state)
{
    (void)state;
    enum { EVERY = 7 };
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    tell_ar(&c, ar, 10, STEPS);
    until_ended(&c, 10);
    for (uint64_t sampler = 0; sampler < 2; sampler++) {
        int process = 0;
        uint64_t first_job = 20 + sampler, whole = 30 + sampler, rest = 40 + sampler;
        struct dip_message m = {.kind = DIP_MESSAGE_DIFFUSION, .job_id = first_job};
        m.as.diffusion.params = job_params(MANY_STEPS);
        m.as.diffusion.params.sampler = sampler ? DIP_JOB_DPM : DIP_JOB_EULER;
        m.as.diffusion.params.checkpoint_every = EVERY;
        struct dip_message again = m;
        uint32_t first = cluster_start(&c, "d", "first", &process);
        tell(&c, first, &m);
        tell_hand_over(&c, ar, 10, first, first_job);
        UNTIL(&c, job_of(&c, first_job)->checkpoints > 2);
        cluster_kill(&c, process);
        UNTIL(&c, c.members[first].lost);
        uint32_t second = cluster_start(&c, "d", sampler ? "third" : "second", NULL);
        m = again;
        m.job_id = whole;
        m.as.diffusion.params.checkpoint_every = 0;
        tell(&c, second, &m);
        tell_hand_over(&c, ar, 10, second, whole);
        until_ended(&c, whole);
        assert_int_equal(job_of(&c, whole)->checkpoints, 0);
        until_beat(&c, second);
        uint64_t steps_before = c.members[second].beat.steps_total;
        again.job_id = rest;
        again.as.diffusion.params.checkpoint_every = 0;
        again.as.diffusion.resume = job_of(&c, first_job)->checkpoint;
        int done = again.as.diffusion.resume.steps_done;
        assert_true(done >= 2 * EVERY && done % EVERY == 0);
        job_of(&c, first_job)->checkpoint = (struct dip_checkpoint){.steps_done = 0};
        tell(&c, second, &again); /* takes the payloads along */
        tell_hand_over(&c, ar, 10, second, rest);
        until_ended(&c, rest);
        until_beat(&c, second);
        assert_true(c.members[second].beat.steps_total - steps_before <=
                    (uint64_t)(MANY_STEPS + 2 - done));
        assert_int_equal(job_of(&c, rest)->png_bytes, job_of(&c, whole)->png_bytes);
        assert_memory_equal(job_of(&c, rest)->png, job_of(&c, whole)->png,
                            job_of(&c, whole)->png_bytes);
    }
    cluster_close(&c);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "worker") == 0)
        return worker_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_and_hinges_are_taken_over),
        cmocka_unit_test(tokens_are_taken_over),
        cmocka_unit_test(what_is_held_gives_way),
        cmocka_unit_test(what_is_held_is_forgotten),
        cmocka_unit_test(a_checkpoint_goes_on_in_another_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
