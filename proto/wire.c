/* proto/wire.c - building a message that has been checked, and writing one. */
#include "proto/wire.h"

#include <stdio.h>
#include <stdlib.h>

/* What protobuf-c may take for one message: its structs and copies are a small multiple of the
 * bytes once lists and field counts are bounded; the constant covers small messages. */
#define MEMORY_BYTES_MAX(bytes) (4 * (bytes) + ((size_t)8 << 20))

struct budget {
    size_t left_bytes;
    enum dip_status status; /* why the last request was refused */
};

/* Plain malloc below a ceiling, so that the message can later be freed without the budget. */
static void *budget_alloc(void *data, size_t bytes)
{
    struct budget *budget = data;
    if (bytes > budget->left_bytes) {
        budget->status = DIP_LIMIT;
        return NULL;
    }
    void *pointer = malloc(bytes ? bytes : 1);
    if (pointer)
        budget->left_bytes -= bytes;
    else
        budget->status = DIP_NO_MEMORY;
    return pointer;
}

static void budget_free(void *data, void *pointer)
{
    (void)data;
    free(pointer);
}

enum dip_status dip_proto_decode(const ProtobufCMessageDescriptor *type, const void *data,
                                 size_t bytes, struct dip_proto_fault *fault,
                                 ProtobufCMessage **ret_message)
{
    static const unsigned char nothing[1];
    DIP_TRY(dip_proto_check(type, data, bytes, fault));
    /* What protobuf-c refuses and the walk lets pass (a tag in too many bytes) is corrupt. */
    struct budget budget = {.left_bytes = MEMORY_BYTES_MAX(bytes), .status = DIP_CORRUPT};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(type, &allocator, bytes, bytes ? data : nothing);
    if (message) {
        *ret_message = message;
        return DIP_OK;
    }
    if (fault)
        *fault = (struct dip_proto_fault){.field = ""};
    if (fault)
        snprintf(fault->text, sizeof fault->text, "%s", dip_status_text(budget.status));
    return budget.status;
}

void dip_proto_free(void *message)
{
    protobuf_c_message_free_unpacked(message, NULL);
}

enum dip_status dip_proto_encode(const ProtobufCMessage *message, void **ret_data,
                                 size_t *ret_bytes)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    unsigned char *data = malloc(bytes ? bytes : 1);
    if (!data)
        return DIP_NO_MEMORY;
    protobuf_c_message_pack(message, data);
    *ret_data = data;
    *ret_bytes = bytes;
    return DIP_OK;
}
