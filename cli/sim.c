/* cli/sim.c - `diptych sim`: clusters in simulated time, one seed one history. */
#include <inttypes.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "cluster/cluster.h"

static double seconds(int64_t ns)
{
    return (double)ns / (double)DIP_SECOND_NS;
}

static void print_text(uint64_t seed, const struct dip_sim_result *r, int64_t took_ns)
{
    printf("seed %" PRIu64 "  history %016" PRIx64 "  %.1f s simulated in %.2f s, %" PRId64
           " events, %" PRId64 " decisions\n",
           seed, r->hash, seconds(r->simulated_ns), seconds(took_ns), r->events, r->decisions);
    printf("  requests  %" PRId64 " admitted, %" PRId64 " refused", r->admitted, r->refused);
    for (int i = 0; i < DIP_END_COUNT; i++)
        if (r->ended[i] > 0)
            printf("; %" PRId64 " %s", r->ended[i], dip_end_text((enum dip_end)i));
    if (r->lapsed > 0)
        printf("; %" PRId64 " over before the next leader came", r->lapsed);
    printf("; longest %.1f s\n", seconds(r->wait_ns_max));
    printf("  troubles  %" PRId64 " crashes, %" PRId64 " cuts, %" PRId64 " pauses, %" PRId64
           " hangs, %" PRId64 " broken streams, %" PRId64 " duplicates, %" PRId64
           " drains; %" PRId64 " images went back, %" PRId64 " groups formed\n",
           r->crashes, r->cuts, r->pauses, r->hangs, r->breaks, r->duplicates, r->drains,
           r->retried, r->groups_formed);
    printf("  takeovers %" PRId64 " leaders followed another; adopted", r->leaders);
    for (int i = 0; i < DIP_HELD_STAGE_COUNT; i++)
        printf("%s %" PRId64 " %s", i > 0 ? "," : "", r->adopted[i],
               dip_held_stage_name((enum dip_held_stage)i));
    printf("; %" PRId64 " pictures made\n", r->painted);
    if (r->failure[0])
        printf("  BROKEN    %s\n", r->failure);
}

static void put_result(struct json_writer *w, uint64_t seed, const struct dip_sim_result *r,
                       int64_t took_ns)
{
    char hash[17];
    snprintf(hash, sizeof hash, "%016" PRIx64, r->hash);
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"events", r->events},
                   {"messages", r->messages},
                   {"decisions", r->decisions},
                   {"admitted", r->admitted},
                   {"refused", r->refused},
                   {"returned", r->returned},
                   {"lapsed", r->lapsed},
                   {"images", r->images},
                   {"retried", r->retried},
                   {"crashes", r->crashes},
                   {"cuts", r->cuts},
                   {"pauses", r->pauses},
                   {"hangs", r->hangs},
                   {"broken_streams", r->breaks},
                   {"duplicates", r->duplicates},
                   {"drains", r->drains},
                   {"groups_formed", r->groups_formed},
                   {"leaders", r->leaders},
                   {"adopted_tokens", r->adopted[DIP_HELD_TOKENS]},
                   {"adopted_hinges", r->adopted[DIP_HELD_HINGE]},
                   {"adopted_steps", r->adopted[DIP_HELD_STEPS]},
                   {"adopted_pictures", r->adopted[DIP_HELD_PICTURE]},
                   {"painted", r->painted}};
    dip__json_open(w, NULL, '{');
    dip__json_uint(w, "seed", seed);
    dip__json_string(w, "hash", hash);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        dip__json_int(w, numbers[i].key, numbers[i].value);
    dip__json_open(w, "ended", '{');
    for (int i = 0; i < DIP_END_COUNT; i++)
        dip__json_int(w, dip_end_name((enum dip_end)i), r->ended[i]);
    dip__json_close(w, '}');
    dip__json_ms(w, "longest_ms", r->wait_ns_max);
    dip__json_ms(w, "simulated_ms", r->simulated_ns);
    dip__json_ms(w, "took_ms", took_ns);
    dip__json_string(w, "failure", r->failure);
    dip__json_close(w, '}');
}

enum exit_code dip__sim(const struct arguments *arguments)
{
    const struct options *o = &arguments->options;
    bool has_seed = dip__is_given(o, &o->seed);
    struct dip_sim_options sim = {.seed = has_seed ? o->seed : dip_entropy_seed(),
                                  .workers = (int)o->sim_workers,
                                  .requests = o->sim_requests};
    struct json_writer w = {.out = stdout};
    bool is_broken = false;
    if (o->json) {
        dip__json_open(&w, NULL, '{');
        dip__json_open(&w, "histories", '[');
    }
    for (int64_t i = 0; i < o->sim_seeds && !is_broken; i++, sim.seed++) {
        struct dip_sim_result result = {.hash = 0};
        int64_t begin_ns = dip_clock_now_ns();
        enum dip_status status = dip_sim_run(&sim, &result);
        int64_t took_ns = dip_clock_now_ns() - begin_ns;
        if (status)
            return dip__fail(status, &(struct dip_why){.text = "no memory for the simulation"});
        is_broken = result.failure[0] != '\0';
        if (o->json)
            put_result(&w, sim.seed, &result, took_ns);
        else if (is_broken || o->sim_seeds == 1)
            print_text(sim.seed, &result, took_ns);
    }
    if (o->json) {
        dip__json_close(&w, ']');
        dip__json_close(&w, '}');
    } else if (o->sim_seeds > 1 && !is_broken) {
        printf("%" PRId64 " histories from seed %" PRIu64 " on: every promise kept\n", o->sim_seeds,
               sim.seed - (uint64_t)o->sim_seeds);
    }
    return is_broken ? EXIT_FAILED : EXIT_DONE;
}
