/* proto/limits.c - the ceilings that the .proto files state, one row a field.
 *
 * The comment of a field is what clients read, this table is what the decoder obeys;
 * tests/unit/proto_limits.c reads both and fails when a field that can grow has no row or another
 * number. */
#include "proto/limits.h"

#include <string.h>

#include "proto/diptych/internal/v1/worker.pb-c.h"
#include "proto/diptych/v1/cluster.pb-c.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"
#include "proto/google/protobuf/any.pb-c.h"
#include "proto/google/rpc/error_details.pb-c.h"
#include "proto/google/rpc/status.pb-c.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/grpc/reflection/v1alpha/reflection.pb-c.h"
#include "proto/keda/externalscaler.pb-c.h"

#define TEXT(message, field, bytes_max)                                                            \
    {                                                                                              \
        &message##__descriptor, #field, 1, bytes_max                                               \
    }
#define LIST(message, field, count_max)                                                            \
    {                                                                                              \
        &message##__descriptor, #field, count_max, 0                                               \
    }
#define TEXTS(message, field, count_max, bytes_max)                                                \
    {                                                                                              \
        &message##__descriptor, #field, count_max, bytes_max                                       \
    }

/* Both versions of reflection are the same messages. */
#define REFLECTION(version)                                                                        \
    TEXT(grpc__reflection__##version##__server_reflection_request, host, 256),                     \
        TEXT(grpc__reflection__##version##__server_reflection_request, file_by_filename, 256),     \
        TEXT(grpc__reflection__##version##__server_reflection_request, file_containing_symbol,     \
             256),                                                                                 \
        TEXT(grpc__reflection__##version##__server_reflection_request,                             \
             all_extension_numbers_of_type, 256),                                                  \
        TEXT(grpc__reflection__##version##__server_reflection_request, list_services, 256),        \
        TEXT(grpc__reflection__##version##__extension_request, containing_type, 256),              \
        TEXT(grpc__reflection__##version##__server_reflection_response, valid_host, 256),          \
        TEXTS(grpc__reflection__##version##__file_descriptor_response, file_descriptor_proto, 32,  \
              65536),                                                                              \
        TEXT(grpc__reflection__##version##__extension_number_response, base_type_name, 256),       \
        LIST(grpc__reflection__##version##__extension_number_response, extension_number, 64),      \
        LIST(grpc__reflection__##version##__list_service_response, service, 32),                   \
        TEXT(grpc__reflection__##version##__service_response, name, 256),                          \
        TEXT(grpc__reflection__##version##__error_response, error_message, 512)

static const struct dip_proto_limit limits[] = {
    /* diptych/v1/image.proto */
    TEXT(diptych__v1__generate_request, request_id, 64),
    TEXT(diptych__v1__generate_request, model, 128),
    TEXT(diptych__v1__generate_request, prompt, 16384),
    TEXT(diptych__v1__sampling, negative_prompt, 16384),
    TEXT(diptych__v1__scheduling, fairness_key, 128),
    TEXT(diptych__v1__watch_request, request_id, 64),
    TEXT(diptych__v1__cancel_request, request_id, 64),
    TEXT(diptych__v1__cancel_request, reason, 256),
    TEXT(diptych__v1__event, request_id, 64),
    TEXT(diptych__v1__determinism, fingerprint, 64),
    TEXT(diptych__v1__preview_image, data, 1048576),
    TEXT(diptych__v1__image_chunk, data, 1048576),
    TEXT(diptych__v1__final_image, data, 1048576),
    TEXT(diptych__v1__final_image, sha256, 32),
    TEXT(diptych__v1__retried, reason, 256),
    /* diptych/v1/model.proto */
    TEXT(diptych__v1__model, name, 128),
    TEXT(diptych__v1__model, revision, 128),
    TEXT(diptych__v1__model, weights_digest, 64),
    TEXTS(diptych__v1__model, capabilities, 32, 32),
    TEXT(diptych__v1__model, fingerprint, 64),
    TEXT(diptych__v1__get_model_request, name, 128),
    TEXT(diptych__v1__list_models_request, page_token, 128),
    LIST(diptych__v1__list_models_response, models, 100),
    TEXT(diptych__v1__list_models_response, next_page_token, 128),
    TEXT(diptych__v1__tokenize_request, model, 128),
    TEXT(diptych__v1__tokenize_request, text, 16384),
    LIST(diptych__v1__tokenize_response, ids, 20480),
    TEXTS(diptych__v1__tokenize_response, pieces, 20480, 1024),
    /* diptych/v1/cluster.proto */
    TEXT(diptych__v1__worker, name, 128),
    TEXT(diptych__v1__worker, group, 128),
    TEXT(diptych__v1__worker, version, 64),
    TEXT(diptych__v1__worker, determinism_fingerprint, 64),
    TEXT(diptych__v1__worker, detail, 256),
    TEXT(diptych__v1__worker, address, 256),
    TEXT(diptych__v1__pool, reason, 256),
    TEXT(diptych__v1__get_cluster_response, cluster_id, 128),
    TEXT(diptych__v1__get_cluster_response, leader, 256),
    TEXT(diptych__v1__get_cluster_response, degraded_reason, 256),
    LIST(diptych__v1__get_cluster_response, pools, 8),
    TEXT(diptych__v1__list_workers_request, page_token, 128),
    LIST(diptych__v1__list_workers_response, workers, 1000),
    TEXT(diptych__v1__list_workers_response, next_page_token, 128),
    TEXT(diptych__v1__drain_request, worker, 128),
    TEXT(diptych__v1__drain_request, reason, 256),
    TEXT(diptych__v1__undrain_request, worker, 128),
    LIST(diptych__v1__get_scale_hint_response, pools, 8),
    TEXT(diptych__v1__list_jobs_request, tenant, 128),
    TEXT(diptych__v1__list_jobs_request, page_token, 128),
    TEXT(diptych__v1__job, request_id, 64),
    TEXT(diptych__v1__job, tenant, 128),
    TEXT(diptych__v1__job, phase, 32),
    TEXTS(diptych__v1__job, workers, 64, 128),
    LIST(diptych__v1__list_jobs_response, jobs, 1000),
    TEXT(diptych__v1__list_jobs_response, next_page_token, 128),
    /* diptych/internal/v1/worker.proto */
    TEXT(diptych__internal__v1__hello, member_id, 128),
    TEXT(diptych__internal__v1__hello, address, 256),
    TEXT(diptych__internal__v1__hello, version, 64),
    TEXT(diptych__internal__v1__hello, model_digest, 64),
    TEXT(diptych__internal__v1__hello, host_id, 128),
    TEXT(diptych__internal__v1__hello, device, 64),
    LIST(diptych__internal__v1__hello, held, 512),
    TEXT(diptych__internal__v1__ready, fingerprint, 64),
    TEXT(diptych__internal__v1__held_job, request_id, 64),
    TEXT(diptych__internal__v1__held_job, image_sha256, 32),
    TEXT(diptych__internal__v1__held_job, request_digest, 32),
    LIST(diptych__internal__v1__held_job, image_ids, 16384),
    TEXT(diptych__internal__v1__welcome, cluster_id, 128),
    TEXT(diptych__internal__v1__leaving, reason, 256),
    TEXT(diptych__internal__v1__superseded, leader, 255),
    TEXT(diptych__internal__v1__job_origin, request_id, 64),
    TEXT(diptych__internal__v1__job_origin, traceparent, 55),
    TEXT(diptych__internal__v1__job_origin, request_digest, 32),
    LIST(diptych__internal__v1__ar_job, prompt_ids, 2048),
    LIST(diptych__internal__v1__ar_job, forced_ids, 16384),
    TEXT(diptych__internal__v1__hand_over, to_address, 256),
    LIST(diptych__internal__v1__tokens, ids, 256),
    TEXT(diptych__internal__v1__preview, data, 1048576),
    TEXT(diptych__internal__v1__latent_checkpoint, latent, 786432),
    TEXT(diptych__internal__v1__latent_checkpoint, history, 786432),
    TEXT(diptych__internal__v1__image_chunk, data, 1048576),
    TEXT(diptych__internal__v1__image_final, sha256, 32),
    TEXT(diptych__internal__v1__failed, text, 256),
    TEXT(diptych__internal__v1__prepare_group, group_id, 128),
    TEXT(diptych__internal__v1__form_group, group_id, 128),
    TEXT(diptych__internal__v1__form_group, comm_id, 256),
    TEXT(diptych__internal__v1__dissolve_group, group_id, 128),
    TEXT(diptych__internal__v1__group_event, group_id, 128),
    TEXT(diptych__internal__v1__group_prepared, comm_id, 256),
    TEXT(diptych__internal__v1__group_lost, reason, 256),
    TEXT(diptych__internal__v1__hinge_header, sha256, 32),
    TEXT(diptych__internal__v1__hinge_chunk, data, 1048576),
    /* google/rpc */
    TEXT(google__rpc__status, message, 1024),
    LIST(google__rpc__status, details, 8),
    TEXT(google__protobuf__any, type_url, 256),
    TEXT(google__protobuf__any, value, 8192),
    TEXT(google__rpc__error_info, reason, 63),
    TEXT(google__rpc__error_info, domain, 64),
    LIST(google__rpc__error_info, metadata, 16),
    TEXT(google__rpc__error_info__metadata_entry, key, 64),
    TEXT(google__rpc__error_info__metadata_entry, value, 256),
    LIST(google__rpc__quota_failure, violations, 8),
    TEXT(google__rpc__quota_failure__violation, subject, 256),
    TEXT(google__rpc__quota_failure__violation, description, 256),
    LIST(google__rpc__bad_request, field_violations, 8),
    TEXT(google__rpc__bad_request__field_violation, field, 256),
    TEXT(google__rpc__bad_request__field_violation, description, 256),
    LIST(google__rpc__help, links, 8),
    TEXT(google__rpc__help__link, description, 256),
    TEXT(google__rpc__help__link, url, 256),
    /* grpc/health, grpc/reflection */
    TEXT(grpc__health__v1__health_check_request, service, 256),
    LIST(grpc__health__v1__health_list_response, statuses, 100),
    TEXT(grpc__health__v1__health_list_response__statuses_entry, key, 256),
    /* keda/externalscaler.proto */
    TEXT(externalscaler__scaled_object_ref, name, 256),
    TEXT(externalscaler__scaled_object_ref, namespace, 256),
    LIST(externalscaler__scaled_object_ref, scalerMetadata, 64),
    TEXT(externalscaler__scaled_object_ref__scaler_metadata_entry, key, 256),
    TEXT(externalscaler__scaled_object_ref__scaler_metadata_entry, value, 16384),
    LIST(externalscaler__get_metric_spec_response, metricSpecs, 8),
    TEXT(externalscaler__metric_spec, metricName, 128),
    TEXT(externalscaler__get_metrics_request, metricName, 128),
    LIST(externalscaler__get_metrics_response, metricValues, 8),
    TEXT(externalscaler__metric_value, metricName, 128),
    REFLECTION(v1),
    REFLECTION(v1alpha),
};

const struct dip_proto_limit *dip_proto_limits(int *ret_count)
{
    *ret_count = (int)(sizeof limits / sizeof limits[0]);
    return limits;
}

const struct dip_proto_limit *dip_proto_limit_of(const ProtobufCMessageDescriptor *type,
                                                 const ProtobufCFieldDescriptor *field)
{
    const struct dip_proto_limit *end = limits + sizeof limits / sizeof limits[0];
    const struct dip_proto_limit *row = limits;
    while (row < end && row->type != type)
        row++;
    for (; row < end && row->type == type; row++)
        if (strcmp(row->field, field->name) == 0)
            return row;
    return NULL;
}
