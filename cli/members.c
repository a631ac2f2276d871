/* cli/members.c - see cli/members.h. */
#include "cli/members.h"

#include <inttypes.h>

#include "base/clock.h"

const char *dip__role_text(Diptych__V1__Role role)
{
    static const char *const texts[] = {"any", "coordinator", "ar", "diffusion", "both"};
    return (unsigned)role < sizeof texts / sizeof texts[0] ? texts[role] : "?";
}

const char *dip__state_text(Diptych__V1__WorkerState state)
{
    static const char *const texts[] = {"?",       "starting", "ready",  "draining",
                                        "drained", "suspect",  "fenced", "lost"};
    return (unsigned)state < sizeof texts / sizeof texts[0] ? texts[state] : "?";
}

void dip__age_text(const Google__Protobuf__Timestamp *time, char ret_text[AGE_TEXT_BYTES])
{
    if (!time || time->seconds <= 0) {
        snprintf(ret_text, AGE_TEXT_BYTES, "-");
        return;
    }
    int64_t age_s = dip_clock_unix_ns() / DIP_SECOND_NS - time->seconds;
    if (age_s < 0)
        age_s = 0; /* the other clock is ahead */
    if (age_s < 120)
        snprintf(ret_text, AGE_TEXT_BYTES, "%" PRId64 " s", age_s);
    else if (age_s < 7200)
        snprintf(ret_text, AGE_TEXT_BYTES, "%" PRId64 " min", age_s / 60);
    else
        snprintf(ret_text, AGE_TEXT_BYTES, "%" PRId64 " h", age_s / 3600);
}

void dip__members_heading(FILE *out)
{
    fprintf(out, "%-20s %-10s %-9s %-14s %-7s %-10s %-7s %s\n", "MEMBER", "ROLE", "STATE", "GROUP",
            "SLOTS", "STEPS", "SINCE", "DETAIL");
}

/* Texts of members are the cluster's; what a terminal would act on is not printed. */
static void put_clean(FILE *out, const char *text, int width)
{
    int count = 0;
    for (; *text && count < 256; text++, count++)
        fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, out);
    for (; count < width; count++)
        fputc(' ', out);
}

void dip__member_print(FILE *out, const Diptych__V1__Worker *worker)
{
    char group[64] = "-", slots[32], since[AGE_TEXT_BYTES];
    if (worker->group[0])
        snprintf(group, sizeof group, "%.40s %u/%u", worker->group, worker->rank,
                 worker->group_size);
    snprintf(slots, sizeof slots, "%u/%u", worker->slots_busy, worker->slots);
    dip__age_text(worker->since, since);
    put_clean(out, worker->name, 20);
    fprintf(out, " %-10s %-9s ", dip__role_text(worker->role), dip__state_text(worker->state));
    put_clean(out, group, 14);
    fprintf(out, " %-7s %-10" PRIu64 " %-7s ", slots, worker->steps_total, since);
    put_clean(out, worker->detail, 0);
    fputc('\n', out);
}

void dip__member_json(struct json_writer *w, const char *key, const Diptych__V1__Worker *worker)
{
    dip__json_open(w, key, '{');
    dip__json_string(w, "name", worker->name);
    dip__json_string(w, "role", dip__role_text(worker->role));
    dip__json_string(w, "state", dip__state_text(worker->state));
    dip__json_string(w, "detail", worker->detail);
    dip__json_string(w, "address", worker->address);
    dip__json_string(w, "group", worker->group);
    dip__json_uint(w, "rank", worker->rank);
    dip__json_uint(w, "group_size", worker->group_size);
    dip__json_uint(w, "incarnation", worker->incarnation);
    dip__json_string(w, "version", worker->version);
    dip__json_string(w, "fingerprint", worker->determinism_fingerprint);
    dip__json_uint(w, "slots", worker->slots);
    dip__json_uint(w, "slots_busy", worker->slots_busy);
    dip__json_uint(w, "steps_total", worker->steps_total);
    dip__json_int(w, "since", worker->since ? worker->since->seconds : 0);
    dip__json_int(w, "last_progress", worker->last_progress ? worker->last_progress->seconds : 0);
    dip__json_close(w, '}');
}
