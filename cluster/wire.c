/* cluster/wire.c - what both directions of the codec are made of, and the welcome between them. */
#include "cluster/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/wire_private.h"

enum dip_status dip_wire_reader_new(struct dip_wire_reader **ret_reader)
{
    struct dip_wire_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return DIP_NO_MEMORY;
    *ret_reader = reader;
    return DIP_OK;
}

void dip_wire_reader_free(struct dip_wire_reader *reader)
{
    if (!reader)
        return;
    free(reader->data);
    free(reader);
}

enum dip_status dip__wire_frame(const ProtobufCMessage *message, dip_wire_frame_fn frame,
                                void *context)
{
    void *data = NULL;
    size_t bytes = 0;
    DIP_TRY(dip_proto_encode(message, &data, &bytes));
    enum dip_status status = frame(context, data, bytes);
    if (status)
        free(data);
    return status;
}

enum dip_status dip__wire_decode(const ProtobufCMessageDescriptor *type, const void *data,
                                 size_t bytes, struct dip_why *why, ProtobufCMessage **ret_message)
{
    struct dip_proto_fault fault = {.field = ""};
    enum dip_status status = dip_proto_decode(type, data, bytes, &fault, ret_message);
    if (status)
        return dip_fail(why, status, "%s%s%s: %s", type->short_name, fault.field[0] ? "." : "",
                        fault.field, fault.text);
    return DIP_OK;
}

enum dip_status dip__wire_range(struct dip_why *why, const char *field, uint64_t value,
                                uint64_t min, uint64_t max)
{
    if (value >= min && value <= max)
        return DIP_OK;
    return dip_fail(why, DIP_INVALID, "%s is %llu; it must be %llu to %llu", field,
                    (unsigned long long)value, (unsigned long long)min, (unsigned long long)max);
}

enum dip_status dip__wire_ns(struct dip_why *why, const char *field, uint64_t value,
                             int64_t *ret_ns)
{
    DIP_TRY(dip__wire_range(why, field, value, 0, INT64_MAX));
    *ret_ns = (int64_t)value;
    return DIP_OK;
}

enum dip_status dip__wire_text(struct dip_why *why, const char *field, const char *text,
                               char *ret_text, size_t bytes_max)
{
    size_t bytes = strlen(text) + 1;
    if (bytes > bytes_max)
        return dip_fail(why, DIP_LIMIT, "%s is %zu bytes; at most %zu are taken", field, bytes - 1,
                        bytes_max - 1);
    memcpy(ret_text, text, bytes);
    return DIP_OK;
}

uint32_t dip__wire_u32(int32_t value)
{
    dip_assert(value >= 0);
    return (uint32_t)value;
}

uint64_t dip__wire_u64(int64_t value)
{
    dip_assert(value >= 0);
    return (uint64_t)value;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool dip__wire_unhex(const char *hex, unsigned char ret_raw[32])
{
    for (int i = 0; i < 32; i++) {
        int high = digit_of(hex[2 * i]);
        int low = high < 0 ? -1 : digit_of(hex[2 * i + 1]);
        if (low < 0)
            return false;
        ret_raw[i] = (unsigned char)(high * 16 + low);
    }
    return hex[64] == '\0';
}

void dip__wire_hex(const unsigned char raw[32], char ret_hex[DIP_SHA256_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        ret_hex[2 * i] = digits[raw[i] >> 4];
        ret_hex[2 * i + 1] = digits[raw[i] & 15];
    }
    ret_hex[64] = '\0';
}

enum dip_status dip__wire_ids(struct dip_why *why, const char *field, const uint32_t *ids,
                              size_t count, struct dip_payload *ret_payload)
{
    *ret_payload = (struct dip_payload){0};
    if (count == 0)
        return DIP_OK;
    for (size_t i = 0; i < count; i++)
        DIP_TRY(dip__wire_range(why, field, ids[i], 0, DIP_VOCAB_MAX - 1));
    ret_payload->data = malloc(count * sizeof ids[0]);
    if (!ret_payload->data)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for %zu ids", count);
    memcpy(ret_payload->data, ids, count * sizeof ids[0]);
    ret_payload->bytes = count * sizeof ids[0];
    return DIP_OK;
}

/* ---- welcome ---- */

enum dip_status dip_wire_encode_welcome(const struct dip_wire_welcome *welcome, void **ret_data,
                                        size_t *ret_bytes)
{
    Pb_(Welcome) body = PB_(WELCOME__INIT);
    body.protocol = welcome->protocol;
    body.heartbeat_ns = dip__wire_u64(welcome->heartbeat_ns);
    body.cluster_id = (char *)welcome->cluster_id;
    Pb_(ConnectResponse) frame = PB_(CONNECT_RESPONSE__INIT);
    frame.epoch = welcome->epoch;
    frame.command_case = PB_(CONNECT_RESPONSE__COMMAND_WELCOME);
    frame.welcome = &body;
    return dip_proto_encode(&frame.base, ret_data, ret_bytes);
}

enum dip_status dip_wire_read_welcome(const void *data, size_t bytes, struct dip_why *why,
                                      struct dip_wire_welcome *ret_welcome)
{
    ProtobufCMessage *message = NULL;
    struct dip_wire_welcome welcome = {0};
    DIP_TRY(dip__wire_decode(&pb_(connect_response__descriptor), data, bytes, why, &message));
    const Pb_(ConnectResponse) *frame = (const void *)message;
    enum dip_status status = DIP_OK;
    if (frame->command_case != PB_(CONNECT_RESPONSE__COMMAND_WELCOME))
        status = dip_fail(why, DIP_INVALID, "the first thing that a coordinator says is Welcome");
    if (!status)
        status = dip__wire_range(why, "Welcome.protocol", frame->welcome->protocol,
                                 WIRE_PROTOCOL_MIN, WIRE_PROTOCOL_MAX);
    if (!status)
        status = dip__wire_range(why, "Welcome.heartbeat_ns", frame->welcome->heartbeat_ns,
                                 DIP_MS_NS, (uint64_t)(60 * DIP_SECOND_NS));
    if (!status)
        status = dip__wire_text(why, "Welcome.cluster_id", frame->welcome->cluster_id,
                                welcome.cluster_id, sizeof welcome.cluster_id);
    if (!status) {
        welcome.epoch = frame->epoch;
        welcome.protocol = frame->welcome->protocol;
        welcome.heartbeat_ns = (int64_t)frame->welcome->heartbeat_ns;
        *ret_welcome = welcome;
    }
    dip_proto_free(message);
    return status;
}
