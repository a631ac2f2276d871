/* proto/reflection.c - looks things up in the embedded descriptors, without an index.
 *
 * The descriptors are a google.protobuf.FileDescriptorSet of some 25 KB; walking it for a question
 * that a person asks takes microseconds, so nothing is built from it. Only these fields matter:
 *
 *     FileDescriptorSet     file = 1
 *     FileDescriptorProto   name = 1, package = 2, dependency = 3, message_type = 4, enum_type = 5,
 *                           service = 6
 *     DescriptorProto       name = 1, field = 2, nested_type = 3, enum_type = 4, oneof_decl = 8
 *     EnumDescriptorProto   name = 1, value = 2        ServiceDescriptorProto   name = 1, method =
 * 2
 *
 * A symbol is a path below its file's package: each component is looked for among the fields above
 * that can hold a named thing; `name` is number 1 in all of them. */
#include "proto/reflection.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/google/rpc/code.pb-c.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/wire.h"

/* Made by the build from the .proto files (tools/build/embed.cmake). */
extern const unsigned char dip_descriptors[];
extern const size_t dip_descriptors_bytes;

enum { FILES_MAX = 32, SERVICES_MAX = 32 };

struct dip_reflection {
    const char *const *services;
    int service_count;
};

struct span {
    const unsigned char *at;
    size_t bytes;
};

static bool take_varint(struct span *span, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 63 && span->bytes; shift += 7) {
        unsigned char byte = *span->at++;
        span->bytes--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* The next length-prefixed field of a message; numbers are stepped over. False at the end. */
static bool next_block(struct span *message, uint64_t *ret_number, struct span *ret_value)
{
    uint64_t tag, value;
    while (take_varint(message, &tag)) {
        if (!take_varint(message, &value) || (tag & 7) > 2 || (tag & 7) == 1)
            return false; /* descriptors hold varints and blocks only */
        if ((tag & 7) == 0)
            continue;
        if (value > message->bytes)
            return false;
        *ret_number = tag >> 3;
        *ret_value = (struct span){message->at, (size_t)value};
        message->at += value;
        message->bytes -= (size_t)value;
        return true;
    }
    return false;
}

/* The first field with this number; empty when there is none. */
static struct span block_of(struct span message, uint64_t number)
{
    uint64_t found;
    struct span value;
    while (next_block(&message, &found, &value))
        if (found == number)
            return value;
    return (struct span){dip_descriptors, 0};
}

static bool is_equal(struct span span, const char *text, size_t bytes)
{
    return span.bytes == bytes && memcmp(span.at, text, bytes) == 0;
}

static struct span all_files(void)
{
    return (struct span){dip_descriptors, dip_descriptors_bytes};
}

static bool next_file(struct span *files, struct span *ret_file)
{
    uint64_t number;
    while (next_block(files, &number, ret_file))
        if (number == 1)
            return true;
    return false;
}

static bool find_by_name(const char *name, size_t bytes, struct span *ret_file)
{
    struct span files = all_files();
    while (next_file(&files, ret_file))
        if (is_equal(block_of(*ret_file, 1), name, bytes))
            return true;
    return false;
}

/* Bits of the field numbers that hold named things. In a file: messages, enums, services. Below
 * that: 2 (fields, enum values, methods), nested messages and enums, oneofs. */
static const unsigned in_file = 1U << 4 | 1U << 5 | 1U << 6;
static const unsigned in_thing = 1U << 2 | 1U << 3 | 1U << 4 | 1U << 8;

/* Whether the path of names leads to something below `thing`. */
static bool holds_path(struct span thing, unsigned numbers, const char *path)
{
    while (*path) {
        size_t bytes = strcspn(path, ".");
        struct span rest = thing, child;
        uint64_t number;
        bool is_found = false;
        while (!is_found && next_block(&rest, &number, &child))
            is_found =
                number < 16 && (numbers >> number & 1) && is_equal(block_of(child, 1), path, bytes);
        if (!is_found)
            return false;
        thing = child;
        numbers = in_thing;
        path += bytes;
        if (*path == '.')
            path++;
    }
    return true;
}

static bool find_by_symbol(const char *symbol, struct span *ret_file)
{
    struct span files = all_files();
    while (next_file(&files, ret_file)) {
        struct span package = block_of(*ret_file, 2);
        if (strncmp(symbol, (const char *)package.at, package.bytes) == 0 &&
            symbol[package.bytes] == '.' && symbol[package.bytes + 1] &&
            holds_path(*ret_file, in_file, symbol + package.bytes + 1))
            return true;
    }
    return false;
}

/* The file and everything that it imports, each once, the file itself first. */
static size_t with_imports(struct span file, struct span list[FILES_MAX])
{
    size_t count = 1;
    list[0] = file;
    for (size_t i = 0; i < count; i++) {
        struct span rest = list[i], name, import;
        uint64_t number;
        while (next_block(&rest, &number, &name)) {
            if (number != 3 || !find_by_name((const char *)name.at, name.bytes, &import))
                continue;
            size_t known = 0;
            while (known < count && list[known].at != import.at)
                known++;
            if (known == count && count < FILES_MAX)
                list[count++] = import;
        }
    }
    return count;
}

/* Every answer repeats its question. */
static Grpc__Reflection__V1__ServerReflectionResponse
begin_answer(Grpc__Reflection__V1__ServerReflectionRequest *question)
{
    Grpc__Reflection__V1__ServerReflectionResponse answer =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    answer.valid_host = question->host;
    answer.original_request = question;
    return answer;
}

enum dip_status dip_reflection_new(const char *const *services, int service_count,
                                   struct dip_reflection **ret_reflection)
{
    struct span file;
    for (int i = 0; i < service_count; i++)
        if (service_count > SERVICES_MAX || !find_by_symbol(services[i], &file))
            return DIP_CORRUPT;
    struct dip_reflection *reflection = calloc(1, sizeof *reflection);
    if (!reflection)
        return DIP_NO_MEMORY;
    reflection->services = services;
    reflection->service_count = service_count;
    *ret_reflection = reflection;
    return DIP_OK;
}

void dip_reflection_free(struct dip_reflection *reflection)
{
    free(reflection);
}

static enum dip_status answer_files(Grpc__Reflection__V1__ServerReflectionRequest *question,
                                    struct span file, void **ret_answer, size_t *ret_bytes)
{
    struct span list[FILES_MAX];
    ProtobufCBinaryData data[FILES_MAX];
    Grpc__Reflection__V1__FileDescriptorResponse files =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    files.n_file_descriptor_proto = with_imports(file, list);
    for (size_t i = 0; i < files.n_file_descriptor_proto; i++)
        data[i] = (ProtobufCBinaryData){list[i].bytes, (uint8_t *)(uintptr_t)list[i].at};
    files.file_descriptor_proto = data;
    Grpc__Reflection__V1__ServerReflectionResponse answer = begin_answer(question);
    answer.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    answer.file_descriptor_response = &files;
    return dip_proto_encode(&answer.base, ret_answer, ret_bytes);
}

static enum dip_status answer_services(const struct dip_reflection *reflection,
                                       Grpc__Reflection__V1__ServerReflectionRequest *question,
                                       void **ret_answer, size_t *ret_bytes)
{
    Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX];
    Grpc__Reflection__V1__ServiceResponse *list[SERVICES_MAX];
    Grpc__Reflection__V1__ListServiceResponse all =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    for (int i = 0; i < reflection->service_count; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = (char *)(uintptr_t)reflection->services[i];
        list[i] = &services[i];
    }
    all.n_service = (size_t)reflection->service_count;
    all.service = list;
    Grpc__Reflection__V1__ServerReflectionResponse answer = begin_answer(question);
    answer.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    answer.list_services_response = &all;
    return dip_proto_encode(&answer.base, ret_answer, ret_bytes);
}

static enum dip_status answer_not_found(Grpc__Reflection__V1__ServerReflectionRequest *question,
                                        const char *what, void **ret_answer, size_t *ret_bytes)
{
    char text[300]; /* names in requests are at most 256 bytes */
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    snprintf(text, sizeof text, "%s is not known here", what);
    error.error_code = GOOGLE__RPC__CODE__NOT_FOUND;
    error.error_message = text;
    Grpc__Reflection__V1__ServerReflectionResponse answer = begin_answer(question);
    answer.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    answer.error_response = &error;
    return dip_proto_encode(&answer.base, ret_answer, ret_bytes);
}

static enum dip_status answer_to(const struct dip_reflection *reflection,
                                 Grpc__Reflection__V1__ServerReflectionRequest *question,
                                 void **ret_answer, size_t *ret_bytes)
{
    struct span file;
    const char *what = "this question";
    switch (question->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        what = question->file_by_filename;
        if (find_by_name(what, strlen(what), &file))
            return answer_files(question, file, ret_answer, ret_bytes);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        what = question->file_containing_symbol;
        if (find_by_symbol(what, &file))
            return answer_files(question, file, ret_answer, ret_bytes);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        return answer_services(reflection, question, ret_answer, ret_bytes);
    default:
        break;
    }
    return answer_not_found(question, what, ret_answer, ret_bytes);
}

enum dip_status dip_reflection_answer(const struct dip_reflection *reflection, const void *request,
                                      size_t request_bytes, void **ret_answer,
                                      size_t *ret_answer_bytes)
{
    ProtobufCMessage *message = NULL;
    DIP_TRY(dip_proto_decode(&grpc__reflection__v1__server_reflection_request__descriptor, request,
                             request_bytes, NULL, &message));
    enum dip_status status =
        answer_to(reflection, (Grpc__Reflection__V1__ServerReflectionRequest *)message, ret_answer,
                  ret_answer_bytes);
    dip_proto_free(message);
    return status;
}
