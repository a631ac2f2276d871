/* cluster/wire_private.h - what the files of the codec share; private to cluster/. */
#pragma once

#include <stdbool.h>

#include "cluster/wire.h"
#include "proto/diptych/internal/v1/worker.pb-c.h"
#include "proto/wire.h"

/* protobuf-c spells the package out in every name. */
#define PB_(name) DIPTYCH__INTERNAL__V1__##name
#define Pb_(name) Diptych__Internal__V1__##name
#define pb_(name) diptych__internal__v1__##name

/* What this program speaks. Number 2 adds held jobs and latent checkpoints. */
enum { WIRE_PROTOCOL_MIN = 1, WIRE_PROTOCOL_MAX = 2 };

/* Puts one picture's chunks together: pictures of one stream come one after the other. */
struct dip_wire_reader {
    uint64_t job_id; /* whose; 0 = none under way */
    unsigned char *data;
    size_t bytes, bytes_max;
};

/* One message as one frame. */
DIP_MUST_USE enum dip_status dip__wire_frame(const ProtobufCMessage *message,
                                             dip_wire_frame_fn frame, void *context);
/* dip_proto_decode with its fault as a sentence. */
DIP_MUST_USE enum dip_status dip__wire_decode(const ProtobufCMessageDescriptor *type,
                                              const void *data, size_t bytes, struct dip_why *why,
                                              ProtobufCMessage **ret_message);

/* Fails with a sentence unless min <= value <= max. */
DIP_MUST_USE enum dip_status dip__wire_range(struct dip_why *why, const char *field, uint64_t value,
                                             uint64_t min, uint64_t max);
/* Nanoseconds in an int64. */
DIP_MUST_USE enum dip_status dip__wire_ns(struct dip_why *why, const char *field, uint64_t value,
                                          int64_t *ret_ns);
/* The text whole and terminated, else LIMIT. */
DIP_MUST_USE enum dip_status dip__wire_text(struct dip_why *why, const char *field,
                                            const char *text, char *ret_text, size_t bytes_max);
/* Our numbers for the wire's: below zero would be a bug here. */
uint32_t dip__wire_u32(int32_t value);
uint64_t dip__wire_u64(int64_t value);

/* 32 raw bytes for 64 hex digits, and back. False when it is no such text. */
bool dip__wire_unhex(const char *hex, unsigned char ret_raw[32]);
void dip__wire_hex(const unsigned char raw[32], char ret_hex[DIP_SHA256_HEX_BYTES]);

/* A digest that says something. */
bool dip__wire_is_set(const unsigned char digest[DIP_DIGEST_BYTES]);

/* A copy of i32 ids of the vocabulary as a payload. */
DIP_MUST_USE enum dip_status dip__wire_ids(struct dip_why *why, const char *field,
                                           const uint32_t *ids, size_t count,
                                           struct dip_payload *ret_payload);

/* ---- wire_held.c ---- */

/* A checkpoint as the wire has it; points into it. */
void dip__wire_checkpoint_encode(const struct dip_checkpoint *checkpoint,
                                 Pb_(LatentCheckpoint) * out);
/* What ret_checkpoint gets is the caller's to free, whatever is returned. */
DIP_MUST_USE enum dip_status dip__wire_checkpoint_read(const Pb_(LatentCheckpoint) * in,
                                                       struct dip_why *why,
                                                       struct dip_checkpoint *ret_checkpoint);

/* Held jobs for a Hello; point into the message that they were made of. */
struct wire_held {
    Pb_(HeldJob) * jobs, **list;
    size_t count;
};
DIP_MUST_USE enum dip_status dip__wire_held_encode(const struct dip_message_held *held,
                                                   struct wire_held *ret);
void dip__wire_held_free(struct wire_held *held);
/* Leaves out what cannot be known again and what a later version says. What ret_held gets is the
 * caller's to free, whatever is returned. */
DIP_MUST_USE enum dip_status dip__wire_held_read(Pb_(HeldJob) * *list, size_t count,
                                                 struct dip_why *why,
                                                 struct dip_message_held *ret_held);
