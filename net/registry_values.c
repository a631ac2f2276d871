/* net/registry_values.c - members, leader, groups and drain wishes as JSON and back. */
#include "net/registry_values.h"

#include <ctype.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { SLOTS_MAX = 1 << 16, VERSION = 1 };

static const struct {
    const char *name;
    uint32_t bit;
} roles[] = {
    {"ar", DIP_ROLE_AR},
    {"diffusion", DIP_ROLE_DIFFUSION},
    {"coordinator", DIP_ROLE_COORDINATOR},
};
enum { ROLES = sizeof roles / sizeof roles[0] };

/* ---- what may stand in a field; both ways ---- */

static bool is_id(const char *text)
{
    size_t bytes = strlen(text);
    if (bytes == 0 || bytes >= DIP_MEMBER_ID_BYTES)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
            return false;
    return true;
}

/* It will be dialled: printable ASCII without spaces and with a port. */
static bool is_address(const char *text)
{
    size_t bytes = strlen(text);
    const char *colon = strrchr(text, ':');
    if (bytes >= DIP_REGISTRY_ADDRESS_BYTES || !colon || colon == text)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (!isgraph((unsigned char)text[i]) || strchr("\"\\/,;", text[i]))
            return false;
    size_t digits = strspn(colon + 1, "0123456789");
    if (digits == 0 || digits > 5 || colon[1 + digits] != '\0')
        return false;
    long port = strtol(colon + 1, NULL, 10);
    return port > 0 && port < 65536;
}

/* It will be shown: no control characters. */
static bool is_text(const char *text)
{
    if (strlen(text) >= DIP_REGISTRY_TEXT_BYTES)
        return false;
    for (; *text; text++)
        if (iscntrl((unsigned char)*text))
            return false;
    return true;
}

static bool is_member(const struct dip_registry_member *m)
{
    return is_id(m->id) && is_address(m->address) && m->roles != 0 &&
           (m->roles & ~(uint32_t)DIP_ROLE_EVERY) == 0 && is_text(m->device) && is_text(m->model) &&
           m->ar_slots >= 0 && m->ar_slots <= SLOTS_MAX && m->diffusion_slots >= 0 &&
           m->diffusion_slots <= SLOTS_MAX;
}

static bool is_group(const struct dip_registry_group *g)
{
    if (!is_id(g->id) || g->epoch > INT64_MAX || g->rank_count < 1 ||
        g->rank_count > DIP_REGISTRY_RANKS_MAX)
        return false;
    for (int i = 0; i < g->rank_count; i++)
        if (!is_id(g->ranks[i]))
            return false;
    return true;
}

static bool is_drain(const struct dip_registry_drain *d)
{
    return d->since_s >= 0 && is_text(d->by) && is_text(d->why);
}

/* ---- writing ---- */

/* Takes the object, NULL when memory was out. */
static enum dip_status write_value(json_t *object, char ret_value[DIP_MEMBER_VALUE_BYTES])
{
    if (!object)
        return DIP_NO_MEMORY; /* or not UTF-8 */
    size_t bytes = json_dumpb(object, ret_value, DIP_MEMBER_VALUE_BYTES - 1, JSON_COMPACT);
    json_decref(object);
    if (bytes == 0 || bytes >= DIP_MEMBER_VALUE_BYTES)
        return DIP_LIMIT;
    ret_value[bytes] = '\0';
    return DIP_OK;
}

enum dip_status dip_registry_encode_member(const struct dip_registry_member *member,
                                           char ret_value[DIP_MEMBER_VALUE_BYTES])
{
    if (!is_member(member))
        return DIP_INVALID;
    json_t *names = json_array();
    for (int i = 0; i < ROLES && names; i++)
        if ((member->roles & roles[i].bit) &&
            json_array_append_new(names, json_string(roles[i].name)) != 0)
            return json_decref(names), DIP_NO_MEMORY;
    return write_value(json_pack("{si ss so ss ss s{si si}}", "version", VERSION, "address",
                                 member->address, "roles", names, "device", member->device, "model",
                                 member->model, "slots", "ar", member->ar_slots, "diffusion",
                                 member->diffusion_slots),
                       ret_value);
}

enum dip_status dip_registry_encode_leader(const struct dip_registry_leader *leader,
                                           char ret_value[DIP_MEMBER_VALUE_BYTES])
{
    if (!is_id(leader->id) || !is_address(leader->address))
        return DIP_INVALID;
    return write_value(
        json_pack("{si ss ss}", "version", VERSION, "id", leader->id, "address", leader->address),
        ret_value);
}

enum dip_status dip_registry_encode_group(const struct dip_registry_group *group,
                                          char ret_value[DIP_MEMBER_VALUE_BYTES])
{
    if (!is_group(group))
        return DIP_INVALID;
    json_t *ranks = json_array();
    for (int i = 0; i < group->rank_count && ranks; i++)
        if (json_array_append_new(ranks, json_string(group->ranks[i])) != 0)
            return json_decref(ranks), DIP_NO_MEMORY;
    return write_value(json_pack("{si sI so}", "version", VERSION, "epoch",
                                 (json_int_t)group->epoch, "ranks", ranks),
                       ret_value);
}

enum dip_status dip_registry_encode_drain(const struct dip_registry_drain *drain,
                                          char ret_value[DIP_MEMBER_VALUE_BYTES])
{
    if (!is_drain(drain))
        return DIP_INVALID;
    return write_value(json_pack("{si sI ss ss}", "version", VERSION, "since",
                                 (json_int_t)drain->since_s, "by", drain->by, "why", drain->why),
                       ret_value);
}

/* ---- reading ---- */

static enum dip_status open_value(const char *name, const char *value, struct dip_why *why,
                                  struct dip_json *ret_json)
{
    int64_t version = 0;
    size_t bytes = strlen(value);
    if (bytes >= DIP_MEMBER_VALUE_BYTES)
        return dip_fail(why, DIP_LIMIT, "%s: %zu bytes, at most %d", name, bytes,
                        DIP_MEMBER_VALUE_BYTES - 1);
    DIP_TRY(dip_json_parse(value, bytes, name, why, ret_json));
    enum dip_status status =
        dip_json_int(ret_json, "version", VERSION, INT64_MAX, why, &version); /* newer ones add */
    if (!status && version == 0)
        status = dip_fail(why, DIP_CORRUPT, "%s has no version", name);
    if (status)
        dip_json_close(ret_json);
    return status;
}

/* Absent stays empty; too long is refused, never cut. */
static enum dip_status get_text(const struct dip_json *json, const char *key, struct dip_why *why,
                                char *text, size_t text_bytes)
{
    const char *found = NULL;
    DIP_TRY(dip_json_string(json, key, why, &found));
    if (!found)
        return DIP_OK;
    if (strlen(found) >= text_bytes)
        return dip_fail(why, DIP_LIMIT, "%s: %s is longer than %zu bytes", json->path, key,
                        text_bytes - 1);
    memcpy(text, found, strlen(found) + 1);
    return DIP_OK;
}

static enum dip_status get_slots(const struct dip_json *json, const char *key, struct dip_why *why,
                                 int *ret_slots)
{
    int64_t slots = 0;
    DIP_TRY(dip_json_int(json, key, 0, SLOTS_MAX, why, &slots));
    *ret_slots = (int)slots;
    return DIP_OK;
}

/* Roles that this version does not know are skipped; one that it knows must be left. */
static enum dip_status get_roles(const struct dip_json *json, struct dip_why *why,
                                 uint32_t *ret_roles)
{
    enum { NAMES_MAX = 16 };
    const char *names[NAMES_MAX];
    int count = 0;
    DIP_TRY(dip_json_strings(json, "roles", NAMES_MAX, why, names, &count));
    for (int i = 0; i < count; i++)
        for (int r = 0; r < ROLES; r++)
            if (strcmp(names[i], roles[r].name) == 0)
                *ret_roles |= roles[r].bit;
    return DIP_OK;
}

static enum dip_status read_member(const struct dip_json *json, struct dip_why *why,
                                   struct dip_registry_member *m)
{
    struct dip_json slots = {0};
    DIP_TRY(get_text(json, "address", why, m->address, sizeof m->address));
    DIP_TRY(get_roles(json, why, &m->roles));
    DIP_TRY(get_text(json, "device", why, m->device, sizeof m->device));
    DIP_TRY(get_text(json, "model", why, m->model, sizeof m->model));
    if (dip_json_has(json, "slots")) {
        DIP_TRY(dip_json_object(json, "slots", why, &slots));
        DIP_TRY(get_slots(&slots, "ar", why, &m->ar_slots));
        DIP_TRY(get_slots(&slots, "diffusion", why, &m->diffusion_slots));
    }
    return is_member(m)
               ? DIP_OK
               : dip_fail(why, DIP_INVALID, "%s is no member: bad id, address or role", json->path);
}

enum dip_status dip_registry_decode_member(const char *id, const char *value, struct dip_why *why,
                                           struct dip_registry_member *ret_member)
{
    struct dip_json json = {0};
    struct dip_registry_member member = {0};
    if (!is_id(id))
        return dip_fail(why, DIP_INVALID, "the registry's member has a bad id");
    memcpy(member.id, id, strlen(id) + 1);
    DIP_TRY(open_value("the registry's member", value, why, &json));
    enum dip_status status = read_member(&json, why, &member);
    dip_json_close(&json);
    if (!status)
        *ret_member = member;
    return status;
}

enum dip_status dip_registry_decode_leader(const char *value, struct dip_why *why,
                                           struct dip_registry_leader *ret_leader)
{
    struct dip_json json = {0};
    struct dip_registry_leader leader = {0};
    DIP_TRY(open_value("the registry's leader", value, why, &json));
    enum dip_status status = get_text(&json, "id", why, leader.id, sizeof leader.id);
    if (!status)
        status = get_text(&json, "address", why, leader.address, sizeof leader.address);
    if (!status && (!is_id(leader.id) || !is_address(leader.address)))
        status = dip_fail(why, DIP_INVALID, "%s has a bad id or address", json.path);
    dip_json_close(&json);
    if (!status)
        *ret_leader = leader;
    return status;
}

static enum dip_status read_group(const struct dip_json *json, struct dip_why *why,
                                  struct dip_registry_group *g)
{
    const char *ranks[DIP_REGISTRY_RANKS_MAX];
    int64_t epoch = 0;
    DIP_TRY(dip_json_int(json, "epoch", 0, INT64_MAX, why, &epoch));
    DIP_TRY(dip_json_strings(json, "ranks", DIP_REGISTRY_RANKS_MAX, why, ranks, &g->rank_count));
    g->epoch = (uint64_t)epoch;
    for (int i = 0; i < g->rank_count; i++) {
        if (!is_id(ranks[i]))
            return dip_fail(why, DIP_INVALID, "%s: rank %d has a bad id", json->path, i);
        memcpy(g->ranks[i], ranks[i], strlen(ranks[i]) + 1);
    }
    return is_group(g) ? DIP_OK : dip_fail(why, DIP_INVALID, "%s has no ranks", json->path);
}

enum dip_status dip_registry_decode_group(const char *id, const char *value, struct dip_why *why,
                                          struct dip_registry_group *ret_group)
{
    struct dip_json json = {0};
    struct dip_registry_group group = {0};
    if (!is_id(id))
        return dip_fail(why, DIP_INVALID, "the registry's group has a bad id");
    memcpy(group.id, id, strlen(id) + 1);
    DIP_TRY(open_value("the registry's group", value, why, &json));
    enum dip_status status = read_group(&json, why, &group);
    dip_json_close(&json);
    if (!status)
        *ret_group = group;
    return status;
}

enum dip_status dip_registry_decode_drain(const char *value, struct dip_why *why,
                                          struct dip_registry_drain *ret_drain)
{
    struct dip_json json = {0};
    struct dip_registry_drain drain = {0};
    DIP_TRY(open_value("the registry's drain", value, why, &json));
    enum dip_status status = dip_json_int(&json, "since", 0, INT64_MAX, why, &drain.since_s);
    if (!status)
        status = get_text(&json, "by", why, drain.by, sizeof drain.by);
    if (!status)
        status = get_text(&json, "why", why, drain.why, sizeof drain.why);
    if (!status && !is_drain(&drain))
        status = dip_fail(why, DIP_INVALID, "%s has a bad text", json.path);
    dip_json_close(&json);
    if (!status)
        *ret_drain = drain;
    return status;
}
