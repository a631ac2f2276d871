/* cluster/wire_hinge.c - hinges on their way from worker to worker, as bytes and back. */
#include "base/crc32c.h"
#include "cluster/wire_private.h"

enum dip_status dip_wire_encode_put_header(const struct dip_wire_hinge *hinge, void **ret_data,
                                           size_t *ret_bytes)
{
    unsigned char sha256[32];
    Pb_(HingeHeader) header = PB_(HINGE_HEADER__INIT);
    Pb_(PutRequest) frame = PB_(PUT_REQUEST__INIT);
    if (!dip__wire_unhex(hinge->sha256, sha256))
        return DIP_INVALID;
    header.job_id = hinge->job_id;
    header.epoch = hinge->epoch;
    header.rows = hinge->rows;
    header.width = hinge->width;
    header.type = PB_(HINGE_TYPE__HINGE_TYPE_F32);
    header.offset = hinge->offset;
    header.sha256 = (ProtobufCBinaryData){sizeof sha256, sha256};
    frame.part_case = PB_(PUT_REQUEST__PART_HEADER);
    frame.header = &header;
    return dip_proto_encode(&frame.base, ret_data, ret_bytes);
}

enum dip_status dip_wire_encode_put_chunk(uint64_t offset, const void *chunk, size_t chunk_bytes,
                                          void **ret_data, size_t *ret_bytes)
{
    Pb_(HingeChunk) body = PB_(HINGE_CHUNK__INIT);
    Pb_(PutRequest) frame = PB_(PUT_REQUEST__INIT);
    body.offset = offset;
    body.crc32c = dip_crc32c(chunk, chunk_bytes);
    body.data = (ProtobufCBinaryData){chunk_bytes, (uint8_t *)chunk};
    frame.part_case = PB_(PUT_REQUEST__PART_CHUNK);
    frame.chunk = &body;
    return dip_proto_encode(&frame.base, ret_data, ret_bytes);
}

static enum dip_status read_header(const Pb_(HingeHeader) * in, struct dip_why *why,
                                   struct dip_wire_hinge *ret_header)
{
    DIP_TRY(dip__wire_range(why, "header.job_id", in->job_id, 1, UINT64_MAX));
    DIP_TRY(dip__wire_range(why, "header.rows", in->rows, 1, DIP_IMAGE_TOKENS_MAX + 1));
    DIP_TRY(dip__wire_range(why, "header.width", in->width, 1, DIP_WIDTH_MAX));
    uint64_t bytes = (uint64_t)in->rows * in->width * sizeof(float);
    DIP_TRY(dip__wire_range(why, "header.offset", in->offset, 0, bytes));
    if (in->type != PB_(HINGE_TYPE__HINGE_TYPE_F32))
        return dip_fail(why, DIP_UNSUPPORTED, "header.type is %d; a hinge is F32 in protocol %d",
                        (int)in->type, WIRE_PROTOCOL_MAX);
    if (in->sha256.len != 32)
        return dip_fail(why, DIP_INVALID, "header.sha256 has %zu bytes, not 32", in->sha256.len);
    *ret_header = (struct dip_wire_hinge){.job_id = in->job_id,
                                          .epoch = in->epoch,
                                          .rows = in->rows,
                                          .width = in->width,
                                          .offset = in->offset};
    dip__wire_hex(in->sha256.data, ret_header->sha256);
    return DIP_OK;
}

static enum dip_status read_chunk(const Pb_(HingeChunk) * in, struct dip_why *why,
                                  struct dip_wire_put *ret_put)
{
    DIP_TRY(dip__wire_range(why, "bytes of chunk.data", in->data.len, 1, DIP_WIRE_CHUNK_BYTES_MAX));
    if (dip_crc32c(in->data.data, in->data.len) != in->crc32c)
        return dip_fail(why, DIP_CORRUPT, "the checksum of the chunk at %llu is wrong",
                        (unsigned long long)in->offset);
    ret_put->offset = in->offset;
    ret_put->data = in->data.data;
    ret_put->bytes = in->data.len;
    return DIP_OK;
}

enum dip_status dip_wire_read_put(const void *data, size_t bytes, struct dip_why *why,
                                  struct dip_wire_put *ret_put)
{
    ProtobufCMessage *proto = NULL;
    struct dip_wire_put put = {0};
    enum dip_status status = DIP_OK;
    DIP_TRY(dip__wire_decode(&pb_(put_request__descriptor), data, bytes, why, &proto));
    const Pb_(PutRequest) *in = (const void *)proto;
    switch (in->part_case) {
    case PB_(PUT_REQUEST__PART_HEADER):
        put.is_header = true;
        status = read_header(in->header, why, &put.header);
        break;
    case PB_(PUT_REQUEST__PART_CHUNK):
        status = read_chunk(in->chunk, why, &put);
        break;
    default:
        status = dip_fail(why, DIP_INVALID, "neither header nor chunk");
        break;
    }
    if (status) {
        dip_proto_free(proto);
        return status;
    }
    put.owner = proto;
    *ret_put = put;
    return DIP_OK;
}

void dip_wire_put_release(struct dip_wire_put *put)
{
    if (put->owner)
        dip_proto_free(put->owner);
    *put = (struct dip_wire_put){0};
}

enum dip_status dip_wire_encode_offset_request(uint64_t job_id, uint64_t epoch, void **ret_data,
                                               size_t *ret_bytes)
{
    Pb_(GetOffsetRequest) request = PB_(GET_OFFSET_REQUEST__INIT);
    request.job_id = job_id;
    request.epoch = epoch;
    return dip_proto_encode(&request.base, ret_data, ret_bytes);
}

enum dip_status dip_wire_read_offset_request(const void *data, size_t bytes, struct dip_why *why,
                                             uint64_t *ret_job_id, uint64_t *ret_epoch)
{
    ProtobufCMessage *proto = NULL;
    DIP_TRY(dip__wire_decode(&pb_(get_offset_request__descriptor), data, bytes, why, &proto));
    const Pb_(GetOffsetRequest) *in = (const void *)proto;
    *ret_job_id = in->job_id;
    *ret_epoch = in->epoch;
    dip_proto_free(proto);
    return DIP_OK;
}

/* PutResponse and GetOffsetResponse are the same bytes; the tests hold that. */
enum dip_status dip_wire_encode_received(uint64_t received_bytes, void **ret_data,
                                         size_t *ret_bytes)
{
    Pb_(PutResponse) response = PB_(PUT_RESPONSE__INIT);
    response.received_bytes = received_bytes;
    return dip_proto_encode(&response.base, ret_data, ret_bytes);
}

enum dip_status dip_wire_read_received(const void *data, size_t bytes, struct dip_why *why,
                                       uint64_t *ret_bytes)
{
    ProtobufCMessage *proto = NULL;
    DIP_TRY(dip__wire_decode(&pb_(put_response__descriptor), data, bytes, why, &proto));
    *ret_bytes = ((const Pb_(PutResponse) *)(const void *)proto)->received_bytes;
    dip_proto_free(proto);
    return DIP_OK;
}
