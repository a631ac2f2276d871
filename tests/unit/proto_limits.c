/* tests/unit/proto_limits.c - every field that can grow has a ceiling, the same in its comment and
 * in the decoder's table.
 *
 * Reads the comments of the .proto files line by line: a field's comment ends with "At most N
 * bytes", "At most N entries" or "At most N entries of at most M bytes". Then walks every message
 * that the services and the error details can reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/diptych/internal/v1/worker.pb-c.h"
#include "proto/diptych/v1/cluster.pb-c.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"
#include "proto/google/rpc/error_details.pb-c.h"
#include "proto/google/rpc/status.pb-c.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/grpc/reflection/v1alpha/reflection.pb-c.h"
#include "proto/keda/externalscaler.pb-c.h"
#include "proto/limits.h"

enum { NAME_BYTES = 160, COMMENT_BYTES = 2048, STATED_MAX = 512, TYPES_MAX = 256, FIELDS_MAX = 32 };

/* What a comment states about one field. */
struct stated {
    char name[NAME_BYTES]; /* "diptych.v1.Event.request_id" */
    unsigned count_max, bytes_max;
};

static struct stated stated[STATED_MAX];
static int stated_count;

static void state(const char *package, char scopes[][NAME_BYTES], int depth, const char *field,
                  const char *comment)
{
    assert_true(stated_count < STATED_MAX);
    struct stated *s = &stated[stated_count++];
    int used = snprintf(s->name, sizeof s->name, "%s", package);
    for (int i = 0; i < depth; i++)
        if (scopes[i][0])
            used += snprintf(s->name + used, sizeof s->name - (size_t)used, ".%s", scopes[i]);
    snprintf(s->name + used, sizeof s->name - (size_t)used, ".%s", field);
    char unit[16] = "";
    unsigned number = 0;
    s->count_max = 1;
    const char *at = strstr(comment, "At most ");
    while (at && sscanf(at, "At most %u %15[a-z]", &number, unit) != 2)
        at = strstr(at + 1, "At most "); /* "At most one event in this interval" */
    if (!at)
        return;
    if (strcmp(unit, "bytes") == 0) {
        s->bytes_max = number;
    } else {
        assert_string_equal(unit, "entries");
        s->count_max = number;
        if (sscanf(at, "At most %*u entries of at most %u bytes", &number) == 1)
            s->bytes_max = number;
    }
}

/* The name in "repeated string capabilities = 4;", false when the line declares no field. */
static bool field_of(const char *line, char name[NAME_BYTES])
{
    const char *equals = strstr(line, " = ");
    if (!equals || line[strlen(line) - 1] != ';' || strchr(line, '"'))
        return false;
    const char *start = equals;
    while (start > line && start[-1] != ' ')
        start--;
    if (start == line) /* an enum value has no type before its name */
        return false;
    snprintf(name, NAME_BYTES, "%.*s", (int)(equals - start), start);
    return true;
}

static void read_comments(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char text[512], package[NAME_BYTES] = "", comment[COMMENT_BYTES] = "", name[NAME_BYTES];
    char scopes[8][NAME_BYTES];
    int depth = 0;
    while (fgets(text, sizeof text, file)) {
        text[strcspn(text, "\n")] = '\0';
        char *line = text + strspn(text, " ");
        size_t used = strlen(comment);
        if (strncmp(line, "//", 2) == 0) {
            snprintf(comment + used, sizeof comment - used, "%s ", line + 2 + (line[2] == ' '));
            continue;
        }
        if (sscanf(line, "package %159[^;];", package) != 1 && field_of(line, name))
            state(package, scopes, depth, name, comment);
        size_t length = strlen(line);
        if (length && line[length - 1] == '{') {
            assert_true(depth < 8);
            scopes[depth][0] = '\0';
            sscanf(line, "message %159[A-Za-z0-9]", scopes[depth]);
            depth++;
        } else if (strcmp(line, "}") == 0) {
            depth--;
        }
        comment[0] = '\0';
    }
    assert_int_equal(depth, 0);
    fclose(file);
}

static const struct stated *find_stated(const char *type, const char *field)
{
    char name[2 * NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", type, field);
    for (int i = 0; i < stated_count; i++)
        if (strcmp(stated[i].name, name) == 0)
            return &stated[i];
    return NULL;
}

static const ProtobufCMessageDescriptor *types[TYPES_MAX];
static int type_count;

static void reach(const ProtobufCMessageDescriptor *type)
{
    for (int i = 0; i < type_count; i++)
        if (types[i] == type)
            return;
    assert_true(type_count < TYPES_MAX);
    types[type_count++] = type;
}

static void reach_all(void)
{
    static const ProtobufCServiceDescriptor *const services[] = {
        &diptych__v1__image_service__descriptor,
        &diptych__v1__model_service__descriptor,
        &diptych__v1__cluster_service__descriptor,
        &diptych__internal__v1__worker_service__descriptor,
        &diptych__internal__v1__hinge_service__descriptor,
        &grpc__health__v1__health__descriptor,
        &externalscaler__external_scaler__descriptor,
        &grpc__reflection__v1__server_reflection__descriptor,
        &grpc__reflection__v1alpha__server_reflection__descriptor,
    };
    for (size_t i = 0; i < sizeof services / sizeof services[0]; i++)
        for (unsigned j = 0; j < services[i]->n_methods; j++) {
            reach(services[i]->methods[j].input);
            reach(services[i]->methods[j].output);
        }
    reach(&google__rpc__status__descriptor);
    reach(&google__rpc__error_info__descriptor);
    reach(&google__rpc__bad_request__descriptor);
    reach(&google__rpc__retry_info__descriptor);
    reach(&google__rpc__quota_failure__descriptor);
    reach(&google__rpc__help__descriptor);
    for (int i = 0; i < type_count; i++)
        for (unsigned j = 0; j < types[i]->n_fields; j++)
            if (types[i]->fields[j].type == PROTOBUF_C_TYPE_MESSAGE)
                reach(types[i]->fields[j].descriptor);
}

static bool can_grow(const ProtobufCFieldDescriptor *field)
{
    return field->label == PROTOBUF_C_LABEL_REPEATED || field->type == PROTOBUF_C_TYPE_STRING ||
           field->type == PROTOBUF_C_TYPE_BYTES;
}

static int setup(void **state_unused)
{
    (void)state_unused;
    static const char *const paths[] = {
        "proto/diptych/v1/image.proto",
        "proto/diptych/v1/model.proto",
        "proto/diptych/v1/cluster.proto",
        "proto/diptych/internal/v1/worker.proto",
        "proto/google/rpc/status.proto",
        "proto/google/rpc/error_details.proto",
        "proto/grpc/health/v1/health.proto",
        "proto/keda/externalscaler.proto",
        "proto/grpc/reflection/v1/reflection.proto",
        "proto/grpc/reflection/v1alpha/reflection.proto",
    };
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        read_comments(paths[i]);
    reach_all();
    return 0;
}

static void every_growing_field_has_its_ceiling(void **state_unused)
{
    (void)state_unused;
    int checked = 0;
    for (int i = 0; i < type_count; i++) {
        assert_true(types[i]->n_fields <= FIELDS_MAX);
        bool is_ours = strncmp(types[i]->name, "google.protobuf.", 16) != 0;
        bool is_entry = strstr(types[i]->name, "Entry") != NULL;
        for (unsigned j = 0; j < types[i]->n_fields; j++) {
            const ProtobufCFieldDescriptor *field = &types[i]->fields[j];
            if (!can_grow(field))
                continue;
            const struct dip_proto_limit *limit = dip_proto_limit_of(types[i], field);
            if (!limit)
                print_error("%s.%s has no row\n", types[i]->name, field->name);
            assert_non_null(limit);
            checked++;
            if (!is_ours || is_entry) /* not stated in a comment of their own */
                continue;
            const struct stated *s = find_stated(types[i]->name, field->name);
            assert_non_null(s);
            if (s->count_max != limit->count_max || s->bytes_max != limit->bytes_max)
                print_error("%s: stated %u x %u, obeyed %u x %u\n", s->name, s->count_max,
                            s->bytes_max, limit->count_max, limit->bytes_max);
            assert_int_equal(s->count_max, limit->count_max);
            assert_int_equal(s->bytes_max, limit->bytes_max);
        }
    }
    assert_true(checked > 100);
}

/* A row whose field was renamed would never be found: each must belong to a field. */
static void every_row_belongs_to_a_field(void **state_unused)
{
    (void)state_unused;
    int count;
    const struct dip_proto_limit *rows = dip_proto_limits(&count);
    for (int i = 0; i < count; i++) {
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field_by_name(rows[i].type, rows[i].field);
        if (!field)
            print_error("%s.%s is no field\n", rows[i].type->name, rows[i].field);
        assert_non_null(field);
        assert_true(can_grow(field));
        assert_ptr_equal(dip_proto_limit_of(rows[i].type, field), &rows[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_growing_field_has_its_ceiling),
        cmocka_unit_test(every_row_belongs_to_a_field),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
