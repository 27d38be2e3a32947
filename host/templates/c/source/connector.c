// `{{name}}`: a source that reads numbers as text from topics and gives each on as JSON, under the
// subject on which it came. What is no number is left out, with a line in the log.

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "reading.h"
#include "windlass.h"

static wl_subscription subscription;
static char *field;

void meta_describe(wl_descriptor *about) {
    wl_about(about, "{{name}}", "{{version}}", "Reads numbers from topics and gives them on as JSON.");
    wl_slot(about, "broker", "messaging", "Where the readings come from.");
}

bool source_open(wl_text *config, wl_text *resume, wl_error *err) {
    char *topics = json_text(config->ptr, config->len, "datasource");
    field = json_text(config->ptr, config->len, "field");
    if (field == NULL) field = strdup("value");
    connector_string_free(config);
    if (resume != NULL) connector_string_free(resume);

    // By the name of the slot: which connection that is, the rule says.
    wl_client client;
    bool done = wl_messaging("broker", &client, err);
    if (done) {
        done = wl_subscribe(client, topics == NULL ? "" : topics, 1, &subscription, err);
        messaging_client_drop_own(client);
    }
    free(topics);
    return done;
}

bool source_read(wl_outcome *outcome, wl_error *err) {
    // Waits. An empty batch means that the host wants this call to return.
    wl_batch arrived, readings;
    if (!wl_receive(subscription, 1000, &arrived, err)) return false;
    wl_columns messages;
    wl_look(arrived, &messages);
    wl_drop(arrived);

    wl_outbox outbox = {0};
    for (size_t i = 0; i < messages.subjects.len; i++) wl_add_subject(&outbox, &messages.subjects.ptr[i]);
    for (uint32_t i = 0; i < messages.ends.len; i++) {
        wl_bytes payload = wl_payload(&messages, i);
        char *json = reading(payload.ptr, payload.len, field);
        if (json != NULL)
            wl_add(&outbox, (const uint8_t *)json, strlen(json), wl_subject(&messages, i));
        else
            wl_log(LOG_LEVEL_WARN, "left out what is no number");
        free(json);
    }
    types_columns_free(&messages);
    if (!wl_send(&outbox, &readings, err)) return false;
    wl_deliver(outcome, readings);
    return true;
}

void source_close(void) {
    messaging_subscription_drop_own(subscription);
    free(field);
}
