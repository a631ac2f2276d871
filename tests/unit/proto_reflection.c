/* tests/unit/proto_reflection.c - what a foreign tool asks before it calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/reflection.h"
#include "proto/wire.h"

static const char *const services[] = {"diptych.v1.ImageService", "grpc.health.v1.Health"};
static struct dip_reflection *reflection;

static int setup(void **state)
{
    (void)state;
    return dip_reflection_new(services, 2, &reflection) == DIP_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    dip_reflection_free(reflection);
    return 0;
}

/* The answer to a question, to be given back with dip_proto_free. */
static Grpc__Reflection__V1__ServerReflectionResponse *
ask(Grpc__Reflection__V1__ServerReflectionRequest *question)
{
    void *data, *answer;
    size_t bytes, answer_bytes;
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_encode(&question->base, &data, &bytes), DIP_OK);
    assert_int_equal(dip_reflection_answer(reflection, data, bytes, &answer, &answer_bytes),
                     DIP_OK);
    assert_int_equal(dip_proto_decode(&grpc__reflection__v1__server_reflection_response__descriptor,
                                      answer, answer_bytes, NULL, &message),
                     DIP_OK);
    free(data);
    free(answer);
    return (Grpc__Reflection__V1__ServerReflectionResponse *)message;
}

static Grpc__Reflection__V1__ServerReflectionResponse *ask_symbol(const char *symbol)
{
    Grpc__Reflection__V1__ServerReflectionRequest question =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    question.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL;
    question.file_containing_symbol = (char *)(uintptr_t)symbol;
    return ask(&question);
}

/* The name of a serialised FileDescriptorProto: its first field. */
static void assert_file(ProtobufCBinaryData file, const char *name)
{
    assert_true(file.len > 2);
    assert_int_equal(file.data[0], 1 << 3 | 2);
    assert_int_equal(file.data[1], strlen(name));
    assert_memory_equal(file.data + 2, name, strlen(name));
}

static void services_are_listed(void **state)
{
    (void)state;
    Grpc__Reflection__V1__ServerReflectionRequest question =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    question.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES;
    question.list_services = (char[]){""};
    Grpc__Reflection__V1__ServerReflectionResponse *answer = ask(&question);
    assert_int_equal(answer->list_services_response->n_service, 2);
    assert_string_equal(answer->list_services_response->service[0]->name, services[0]);
    assert_string_equal(answer->list_services_response->service[1]->name, services[1]);
    dip_proto_free(answer);
}

static void a_symbol_brings_its_file_and_the_imports(void **state)
{
    (void)state;
    static const char *const symbols[] = {
        "diptych.v1.ImageService",     "diptych.v1.ImageService.Generate",
        "diptych.v1.Sampling",         "diptych.v1.Sampling.seed",
        "diptych.v1.Sampler",          "diptych.v1.Event.kind",
        "diptych.v1.Event.request_id",
    };
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        Grpc__Reflection__V1__ServerReflectionResponse *answer = ask_symbol(symbols[i]);
        assert_non_null(answer->original_request);
        assert_int_equal(answer->message_response_case, 4);
        Grpc__Reflection__V1__FileDescriptorResponse *files = answer->file_descriptor_response;
        assert_int_equal(files->n_file_descriptor_proto, 3);
        assert_file(files->file_descriptor_proto[0], "diptych/v1/image.proto");
        assert_file(files->file_descriptor_proto[1], "google/protobuf/duration.proto");
        assert_file(files->file_descriptor_proto[2], "google/protobuf/timestamp.proto");
        dip_proto_free(answer);
    }
    Grpc__Reflection__V1__ServerReflectionResponse *answer =
        ask_symbol("google.rpc.QuotaFailure.Violation"); /* a message in a message */
    assert_file(answer->file_descriptor_response->file_descriptor_proto[0],
                "google/rpc/error_details.proto");
    dip_proto_free(answer);
}

static void a_file_is_found_by_name(void **state)
{
    (void)state;
    Grpc__Reflection__V1__ServerReflectionRequest question =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    question.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME;
    question.file_by_filename = (char[]){"google/rpc/status.proto"};
    Grpc__Reflection__V1__ServerReflectionResponse *answer = ask(&question);
    assert_int_equal(answer->file_descriptor_response->n_file_descriptor_proto, 2);
    assert_file(answer->file_descriptor_response->file_descriptor_proto[1],
                "google/protobuf/any.proto");
    dip_proto_free(answer);
}

static void what_is_not_known_is_an_answer(void **state)
{
    (void)state;
    static const char *const symbols[] = {
        "",
        ".",
        "diptych.v1",
        "diptych.v1.",
        "diptych.v1.Nothing",
        "diptych.v1.Sampling.seed.x",
        "diptych.internal.v1.WorkerService",
    };
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        Grpc__Reflection__V1__ServerReflectionResponse *answer = ask_symbol(symbols[i]);
        assert_int_equal(answer->message_response_case, 7);
        assert_int_equal(answer->error_response->error_code, 5);
        dip_proto_free(answer);
    }
    Grpc__Reflection__V1__ServerReflectionRequest nothing =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    Grpc__Reflection__V1__ServerReflectionResponse *answer = ask(&nothing);
    assert_int_equal(answer->message_response_case, 7);
    dip_proto_free(answer);
}

static void a_service_that_is_not_there_is_noticed_at_the_start(void **state)
{
    (void)state;
    static const char *const wrong[] = {"diptych.v1.NoService"};
    struct dip_reflection *other = NULL;
    assert_int_equal(dip_reflection_new(wrong, 1, &other), DIP_CORRUPT);
    assert_null(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(services_are_listed),
        cmocka_unit_test(a_symbol_brings_its_file_and_the_imports),
        cmocka_unit_test(a_file_is_found_by_name),
        cmocka_unit_test(what_is_not_known_is_an_answer),
        cmocka_unit_test(a_service_that_is_not_there_is_noticed_at_the_start),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
