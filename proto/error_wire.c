/* proto/error_wire.c - errors to and from google.rpc.Status.
 *
 * A detail is a google.protobuf.Any: the name of its type and its bytes. The structs that
 * protobuf-c wants are arrays of pointers into one scratch block on the stack; nothing but the
 * details' bytes is allocated. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "proto/error.h"
#include "proto/google/rpc/error_details.pb-c.h"
#include "proto/google/rpc/status.pb-c.h"
#include "proto/time.h"
#include "proto/wire.h"

#define DOMAIN "diptych"

enum { DETAILS_MAX = 4 };

static const char url_info[] = "type.googleapis.com/google.rpc.ErrorInfo";
static const char url_fields[] = "type.googleapis.com/google.rpc.BadRequest";
static const char url_retry[] = "type.googleapis.com/google.rpc.RetryInfo";
static const char url_quota[] = "type.googleapis.com/google.rpc.QuotaFailure";

/* protobuf-c never writes through the strings of a message that it packs. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

struct details {
    Google__Protobuf__Any any[DETAILS_MAX];
    Google__Protobuf__Any *list[DETAILS_MAX];
    int count;
};

static enum dip_status details_add(struct details *details, const char *url,
                                   const ProtobufCMessage *message)
{
    dip_assert(details->count < DETAILS_MAX);
    void *data = NULL;
    size_t bytes = 0;
    DIP_TRY(dip_proto_encode(message, &data, &bytes));
    Google__Protobuf__Any *any = &details->any[details->count];
    google__protobuf__any__init(any);
    any->type_url = text_of(url);
    any->value.data = data;
    any->value.len = bytes;
    details->list[details->count++] = any;
    return DIP_OK;
}

static enum dip_status add_info(struct details *details, const struct dip_error *error)
{
    Google__Rpc__ErrorInfo__MetadataEntry entries[DIP_ERROR_FACTS_MAX];
    Google__Rpc__ErrorInfo__MetadataEntry *list[DIP_ERROR_FACTS_MAX];
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    for (int i = 0; i < error->fact_count; i++) {
        google__rpc__error_info__metadata_entry__init(&entries[i]);
        entries[i].key = text_of(error->facts[i].key);
        entries[i].value = text_of(error->facts[i].value);
        list[i] = &entries[i];
    }
    info.reason = text_of(dip_reason_name(error->reason));
    info.domain = text_of(DOMAIN);
    info.n_metadata = (size_t)error->fact_count;
    info.metadata = list;
    return details_add(details, url_info, &info.base);
}

static enum dip_status add_fields(struct details *details, const struct dip_error *error)
{
    if (error->field_count == 0)
        return DIP_OK;
    Google__Rpc__BadRequest__FieldViolation violations[DIP_ERROR_FIELDS_MAX];
    Google__Rpc__BadRequest__FieldViolation *list[DIP_ERROR_FIELDS_MAX];
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    for (int i = 0; i < error->field_count; i++) {
        google__rpc__bad_request__field_violation__init(&violations[i]);
        violations[i].field = text_of(error->fields[i].field);
        violations[i].description = text_of(error->fields[i].text);
        list[i] = &violations[i];
    }
    bad.n_field_violations = (size_t)error->field_count;
    bad.field_violations = list;
    return details_add(details, url_fields, &bad.base);
}

static enum dip_status add_retry(struct details *details, const struct dip_error *error)
{
    if (!error->has_retry)
        return DIP_OK;
    Google__Protobuf__Duration delay;
    dip_duration_encode(error->retry_ns, &delay);
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    retry.retry_delay = &delay;
    return details_add(details, url_retry, &retry.base);
}

static enum dip_status add_quota(struct details *details, const struct dip_error *error)
{
    if (!error->has_quota)
        return DIP_OK;
    Google__Rpc__QuotaFailure__Violation violation = GOOGLE__RPC__QUOTA_FAILURE__VIOLATION__INIT;
    violation.subject = text_of(error->quota_subject);
    violation.description = text_of(error->quota_text);
    Google__Rpc__QuotaFailure__Violation *list[1] = {&violation};
    Google__Rpc__QuotaFailure quota = GOOGLE__RPC__QUOTA_FAILURE__INIT;
    quota.n_violations = 1;
    quota.violations = list;
    return details_add(details, url_quota, &quota.base);
}

enum dip_status dip_error_encode(const struct dip_error *error, void **ret_data, size_t *ret_bytes)
{
    struct details details = {.count = 0};
    enum dip_status status = add_info(&details, error);
    if (!status)
        status = add_fields(&details, error);
    if (!status)
        status = add_retry(&details, error);
    if (!status)
        status = add_quota(&details, error);
    if (!status) {
        Google__Rpc__Status whole = GOOGLE__RPC__STATUS__INIT;
        whole.code = dip_reason_code(error->reason);
        whole.message = text_of(error->message);
        whole.n_details = (size_t)details.count;
        whole.details = details.list;
        status = dip_proto_encode(&whole.base, ret_data, ret_bytes);
    }
    for (int i = 0; i < details.count; i++)
        free(details.any[i].value.data);
    return status;
}

/* ---- reading ---- */

static void read_info(const Google__Rpc__ErrorInfo *info, struct dip_error *error)
{
    for (int i = 0; i < DIP_REASON_COUNT && strcmp(info->domain, DOMAIN) == 0; i++)
        if (strcmp(info->reason, dip_reason_name((enum dip_reason)i)) == 0)
            error->reason = (enum dip_reason)i;
    for (size_t i = 0; i < info->n_metadata; i++)
        dip_error_fact(error, info->metadata[i]->key, "%s", info->metadata[i]->value);
}

static void read_fields(const Google__Rpc__BadRequest *bad, struct dip_error *error)
{
    for (size_t i = 0; i < bad->n_field_violations; i++)
        dip_error_field(error, bad->field_violations[i]->field, "%s",
                        bad->field_violations[i]->description);
}

static enum dip_status read_retry(const Google__Rpc__RetryInfo *retry, struct dip_error *error)
{
    int64_t ns;
    if (!dip_duration_decode(retry->retry_delay, &ns))
        return DIP_CORRUPT;
    dip_error_retry(error, ns);
    return DIP_OK;
}

static void read_quota(const Google__Rpc__QuotaFailure *quota, struct dip_error *error)
{
    if (quota->n_violations)
        dip_error_quota(error, quota->violations[0]->subject, "%s",
                        quota->violations[0]->description);
}

/* A detail of a type that is not known here is skipped. */
static enum dip_status read_detail(const Google__Protobuf__Any *any, struct dip_error *error)
{
    static const struct {
        const char *url;
        const ProtobufCMessageDescriptor *type;
    } types[] = {{url_info, &google__rpc__error_info__descriptor},
                 {url_fields, &google__rpc__bad_request__descriptor},
                 {url_retry, &google__rpc__retry_info__descriptor},
                 {url_quota, &google__rpc__quota_failure__descriptor}};
    size_t i = 0;
    while (i < sizeof types / sizeof types[0] && strcmp(types[i].url, any->type_url) != 0)
        i++;
    if (i == sizeof types / sizeof types[0])
        return DIP_OK;
    ProtobufCMessage *message = NULL;
    enum dip_status status =
        dip_proto_decode(types[i].type, any->value.data, any->value.len, NULL, &message);
    if (status)
        return status;
    if (types[i].url == url_info)
        read_info((const Google__Rpc__ErrorInfo *)message, error);
    else if (types[i].url == url_fields)
        read_fields((const Google__Rpc__BadRequest *)message, error);
    else if (types[i].url == url_retry)
        status = read_retry((const Google__Rpc__RetryInfo *)message, error);
    else
        read_quota((const Google__Rpc__QuotaFailure *)message, error);
    dip_proto_free(message);
    return status;
}

enum dip_status dip_error_decode(const void *data, size_t bytes, struct dip_error *ret_error)
{
    ProtobufCMessage *message = NULL;
    DIP_TRY(dip_proto_decode(&google__rpc__status__descriptor, data, bytes, NULL, &message));
    const Google__Rpc__Status *whole = (const Google__Rpc__Status *)message;
    struct dip_error error;
    dip_error_set(&error, DIP_REASON_BUG, "%s", whole->message);
    enum dip_status status = DIP_OK;
    for (size_t i = 0; i < whole->n_details && !status; i++)
        status = read_detail(whole->details[i], &error);
    if (!status)
        *ret_error = error;
    dip_proto_free(message);
    return status;
}
