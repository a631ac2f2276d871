/* cluster/table.c - requests by id, and in the two lists of those that have not begun.
 *
 * The table is open and half empty at worst; removal moves later entries back, so that no search
 * meets a grave. */
#include "base/assert.h"
#include "cluster/state.h"

static uint32_t place_of(const struct dip_scheduler *s, uint64_t id)
{
    id *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(id >> 32) & (s->request_table_size - 1);
}

struct request *dip__request_find(const struct dip_scheduler *s, uint64_t id)
{
    uint32_t mask = s->request_table_size - 1;
    for (uint32_t i = place_of(s, id); s->request_table[i] != 0; i = (i + 1) & mask) {
        struct request *request = &s->requests[s->request_table[i] - 1];
        if (request->id == id)
            return request;
    }
    return NULL;
}

void dip__request_enter(struct dip_scheduler *s, struct request *request)
{
    uint32_t i = place_of(s, request->id);
    while (s->request_table[i] != 0)
        i = (i + 1) & (s->request_table_size - 1);
    s->request_table[i] = (int32_t)(request - s->requests) + 1;
}

void dip__request_remove(struct dip_scheduler *s, const struct request *request)
{
    uint32_t mask = s->request_table_size - 1;
    uint32_t hole = place_of(s, request->id);
    while (s->request_table[hole] != (int32_t)(request - s->requests) + 1) {
        dip_assert(s->request_table[hole] != 0);
        hole = (hole + 1) & mask;
    }
    s->request_table[hole] = 0;
    for (uint32_t i = (hole + 1) & mask; s->request_table[i] != 0; i = (i + 1) & mask) {
        uint32_t home = place_of(s, s->requests[s->request_table[i] - 1].id);
        if (((i - home) & mask) < ((i - hole) & mask))
            continue; /* it would lie before its home */
        s->request_table[hole] = s->request_table[i];
        s->request_table[i] = 0;
        hole = i;
    }
}

static struct request_list *list_of(struct dip_scheduler *s, enum request_list_kind kind)
{
    return kind == LIST_NEWS ? &s->news : kind == LIST_HELD ? &s->held : &s->waiting;
}

static struct request_link *link_of(struct request *request, enum request_list_kind kind)
{
    return kind == LIST_NEWS   ? &request->news
           : kind == LIST_HELD ? &request->held
                               : &request->waiting;
}

void dip__list_push(struct dip_scheduler *s, enum request_list_kind kind, struct request *request)
{
    struct request_list *list = list_of(s, kind);
    struct request_link *link = link_of(request, kind);
    dip_assert(!link->is_in);
    *link = (struct request_link){.previous = list->last, .is_in = true};
    *(list->last ? &link_of(list->last, kind)->next : &list->first) = request;
    list->last = request;
}

void dip__list_remove(struct dip_scheduler *s, enum request_list_kind kind, struct request *request)
{
    struct request_list *list = list_of(s, kind);
    struct request_link *link = link_of(request, kind);
    if (!link->is_in)
        return;
    *(link->previous ? &link_of(link->previous, kind)->next : &list->first) = link->next;
    *(link->next ? &link_of(link->next, kind)->previous : &list->last) = link->previous;
    *link = (struct request_link){0};
}
