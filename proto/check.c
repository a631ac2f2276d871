/* proto/check.c - the walk over a message's bytes that comes before anything is built from them.
 *
 * One pass, no allocation, an explicit stack instead of recursion. Each frame is a message:
 *
 *     bytes   tag len ────── message ──────  tag len text ...
 *     stack   [GenerateRequest][Sampling]           `at` moves, `end` stands
 *
 * A field that the schema does not know is skipped, as protobuf asks; it still counts, because
 * protobuf-c keeps a record of every field and a peer could buy 48 bytes of memory with 2. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "proto/limits.h"
#include "proto/wire.h"

enum { FIELDS_OF_A_TYPE_MAX = 32 }; /* tests/unit/proto_limits.c compares it with every message */

struct frame {
    const ProtobufCMessageDescriptor *type;
    const char *field_name; /* in the frame below; empty for the outermost */
    const unsigned char *at, *end;
    uint32_t counts[FIELDS_OF_A_TYPE_MAX]; /* entries so far, by index of the field */
};

struct walk {
    struct frame stack[DIP_PROTO_DEPTH_MAX];
    int depth; /* frames in use */
    uint32_t field_count;
    struct dip_proto_fault *fault;
};

/* Writes where and what, returns the status. */
static enum dip_status refuse(struct walk *w, const char *field, enum dip_status status,
                              const char *what, size_t got, size_t max)
{
    if (!w->fault)
        return status;
    size_t used = 0;
    for (int i = 1; i <= w->depth; i++) {
        const char *name = i < w->depth ? w->stack[i].field_name : field;
        int more = snprintf(w->fault->field + used, sizeof w->fault->field - used, "%s%s",
                            used && *name ? "." : "", name);
        if (more < 0 || used + (size_t)more >= sizeof w->fault->field)
            break;
        used += (size_t)more;
    }
    if (status == DIP_LIMIT)
        snprintf(w->fault->text, sizeof w->fault->text, "%zu %s, at most %zu", got, what, max);
    else
        snprintf(w->fault->text, sizeof w->fault->text, "%s", what);
    return status;
}

/* One varint of at most 10 bytes; false when it does not end in time. */
static bool read_varint(struct frame *frame, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 70 && frame->at < frame->end; shift += 7) {
        unsigned char byte = *frame->at++;
        if (shift < 63)
            value |= (uint64_t)(byte & 0x7f) << shift;
        else
            value |= (uint64_t)(byte & 1) << 63;
        if (byte < 0x80) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* Well-formed UTF-8 without NUL. */
static bool is_text(const unsigned char *at, size_t bytes)
{
    const unsigned char *end = at + bytes;
    while (at < end) {
        unsigned char first = *at++;
        if (first == 0)
            return false;
        if (first < 0x80)
            continue;
        int more = first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : -1;
        if (more < 0 || end - at < more)
            return false;
        /* The second byte is narrower after these four: no overlong form, no surrogate, no more
         * than U+10FFFF. */
        unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if (*at < low || *at > high)
            return false;
        for (int i = 1; i < more; i++)
            if ((at[i] & 0xc0) != 0x80)
                return false;
        at += more;
    }
    return true;
}

static ProtobufCWireType wire_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return PROTOBUF_C_WIRE_TYPE_32BIT;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return PROTOBUF_C_WIRE_TYPE_64BIT;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    default:
        return PROTOBUF_C_WIRE_TYPE_VARINT;
    }
}

/* How many numbers a packed field holds; SIZE_MAX when it does not come out even. */
static size_t packed_count(ProtobufCWireType wire, const unsigned char *at, size_t bytes)
{
    size_t each = wire == PROTOBUF_C_WIRE_TYPE_32BIT   ? 4
                  : wire == PROTOBUF_C_WIRE_TYPE_64BIT ? 8
                                                       : 0;
    if (each)
        return bytes % each ? SIZE_MAX : bytes / each;
    size_t count = 0, run = 0;
    for (size_t i = 0; i < bytes; i++) {
        run++;
        if (run > 10)
            return SIZE_MAX;
        if (at[i] < 0x80) {
            count++;
            run = 0;
        }
    }
    return run ? SIZE_MAX : count;
}

/* Adds entries to a repeated field's count. A field that stands once may be sent again, the last
 * one wins: that costs nothing but its record. */
static enum dip_status count_entries(struct walk *w, const ProtobufCFieldDescriptor *field,
                                     const struct dip_proto_limit *limit, size_t entries)
{
    if (field->label != PROTOBUF_C_LABEL_REPEATED)
        return DIP_OK;
    struct frame *frame = &w->stack[w->depth - 1];
    size_t index = (size_t)(field - frame->type->fields);
    dip_assert(index < FIELDS_OF_A_TYPE_MAX);
    dip_assert(limit);
    if (entries > limit->count_max - frame->counts[index])
        return refuse(w, field->name, DIP_LIMIT, "entries", frame->counts[index] + entries,
                      limit->count_max);
    frame->counts[index] += (uint32_t)entries;
    return DIP_OK;
}

/* A known field whose value is `bytes` bytes at the frame's position. */
static enum dip_status check_block(struct walk *w, const ProtobufCFieldDescriptor *field,
                                   size_t bytes)
{
    struct frame *frame = &w->stack[w->depth - 1];
    const struct dip_proto_limit *limit = dip_proto_limit_of(frame->type, field);
    const unsigned char *at = frame->at;
    frame->at += bytes;
    ProtobufCWireType wire = wire_of(field->type);
    if (wire != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
        if (field->label != PROTOBUF_C_LABEL_REPEATED)
            return refuse(w, field->name, DIP_CORRUPT, "not encoded as its type asks", 0, 0);
        size_t count = packed_count(wire, at, bytes);
        if (count == SIZE_MAX)
            return refuse(w, field->name, DIP_CORRUPT, "a packed list that is cut short", 0, 0);
        return count_entries(w, field, limit, count);
    }
    DIP_TRY(count_entries(w, field, limit, 1));
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
        dip_assert(limit);
        if (bytes > limit->bytes_max)
            return refuse(w, field->name, DIP_LIMIT, "bytes", bytes, limit->bytes_max);
        if (field->type == PROTOBUF_C_TYPE_STRING && !is_text(at, bytes))
            return refuse(w, field->name, DIP_CORRUPT, "must be UTF-8 without NUL", 0, 0);
        return DIP_OK;
    }
    if (w->depth == DIP_PROTO_DEPTH_MAX)
        return refuse(w, field->name, DIP_LIMIT, "messages deep", DIP_PROTO_DEPTH_MAX + 1,
                      DIP_PROTO_DEPTH_MAX);
    w->stack[w->depth++] = (struct frame){
        .type = field->descriptor, .field_name = field->name, .at = at, .end = at + bytes};
    return DIP_OK;
}

/* A field that is a number. */
static enum dip_status check_number(struct walk *w, const ProtobufCFieldDescriptor *field,
                                    ProtobufCWireType wire)
{
    struct frame *frame = &w->stack[w->depth - 1];
    size_t left = (size_t)(frame->end - frame->at);
    size_t each = wire == PROTOBUF_C_WIRE_TYPE_32BIT ? 4 : 8;
    uint64_t ignored;
    if (wire == PROTOBUF_C_WIRE_TYPE_VARINT ? !read_varint(frame, &ignored) : left < each)
        return refuse(w, field ? field->name : "", DIP_CORRUPT, "a number that is cut short", 0, 0);
    if (wire != PROTOBUF_C_WIRE_TYPE_VARINT)
        frame->at += each;
    if (!field)
        return DIP_OK;
    if (wire_of(field->type) != wire)
        return refuse(w, field->name, DIP_CORRUPT, "not encoded as its type asks", 0, 0);
    return count_entries(w, field, dip_proto_limit_of(frame->type, field), 1);
}

static enum dip_status check_field(struct walk *w)
{
    struct frame *frame = &w->stack[w->depth - 1];
    uint64_t tag;
    if (!read_varint(frame, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
        return refuse(w, "", DIP_CORRUPT, "not a message of this type", 0, 0);
    if (++w->field_count > DIP_PROTO_FIELDS_MAX)
        return refuse(w, "", DIP_LIMIT, "fields", w->field_count, DIP_PROTO_FIELDS_MAX);
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(frame->type, (unsigned)(tag >> 3));
    ProtobufCWireType wire = (ProtobufCWireType)(tag & 7);
    if (wire == PROTOBUF_C_WIRE_TYPE_VARINT || wire == PROTOBUF_C_WIRE_TYPE_64BIT ||
        wire == PROTOBUF_C_WIRE_TYPE_32BIT)
        return check_number(w, field, wire);
    uint64_t bytes;
    if (wire != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED || !read_varint(frame, &bytes) ||
        bytes > (uint64_t)(frame->end - frame->at))
        return refuse(w, field ? field->name : "", DIP_CORRUPT, "cut short", 0, 0);
    if (field)
        return check_block(w, field, (size_t)bytes);
    frame->at += bytes;
    return DIP_OK;
}

enum dip_status dip_proto_check(const ProtobufCMessageDescriptor *type, const void *data,
                                size_t bytes, struct dip_proto_fault *fault)
{
    static const unsigned char nothing[1];
    const unsigned char *at = bytes ? data : nothing;
    struct walk w = {.depth = 1, .fault = fault};
    w.stack[0] = (struct frame){.type = type, .field_name = "", .at = at, .end = at + bytes};
    while (w.depth > 0) {
        struct frame *frame = &w.stack[w.depth - 1];
        if (frame->at == frame->end) {
            w.depth--;
            continue;
        }
        DIP_TRY(check_field(&w));
    }
    return DIP_OK;
}
