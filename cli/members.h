/* cli/members.h - members of a cluster in words and as JSON; private to cli/. */
#pragma once

#include <stdint.h>
#include <stdio.h>

#include "cli/json.h"
#include "proto/diptych/v1/cluster.pb-c.h"

/* "diffusion", "ready": never NULL. */
const char *dip__role_text(Diptych__V1__Role role);
const char *dip__state_text(Diptych__V1__WorkerState state);

/* "12 s", "3 min": how long ago, by this machine's clock; "-" when it was never. */
enum { AGE_TEXT_BYTES = 24 };
void dip__age_text(const Google__Protobuf__Timestamp *time, char ret_text[AGE_TEXT_BYTES]);

/* One line each, under a line of headings. */
void dip__members_heading(FILE *out);
void dip__member_print(FILE *out, const Diptych__V1__Worker *worker);

void dip__member_json(struct json_writer *w, const char *key, const Diptych__V1__Worker *worker);
