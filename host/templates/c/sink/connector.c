// `{{name}}`: a sink that publishes each message with the name of its site beside it. What is no text
// is refused; the others of its batch go out.

#include <stdlib.h>

#include "json.h"
#include "site.h"
#include "windlass.h"

static wl_client client;
static char *topic, *site;

void meta_describe(wl_descriptor *about) {
    wl_about(about, "{{name}}", "{{version}}", "Publishes messages with the site they come from.");
    wl_slot(about, "broker", "messaging", "Where the messages go.");
}

bool sink_open(wl_text *config, wl_error *err) {
    topic = json_text(config->ptr, config->len, "topic");
    site = json_text(config->ptr, config->len, "site");
    connector_string_free(config);
    if (site == NULL) return wl_misconfigured(err, "site: a name is required");
    // By the name of the slot: which connection that is, the rule says.
    return wl_messaging("broker", &client, err);
}

// Publishes the messages of `outbox`; `places` says which of the batch they are.
static bool publish(wl_outbox *outbox, const uint32_t *places, wl_rejections *rejected, wl_error *err) {
    wl_batch batch;
    bool none = outbox->ends.len == 0;
    if (!wl_send(outbox, &batch, err)) return false;
    size_t own = rejected->len;
    bool done = none || wl_publish(client, batch, topic, -1, rejected, err);
    for (size_t i = own; done && i < rejected->len; i++) rejected->ptr[i].index = places[rejected->ptr[i].index];
    wl_drop(batch);
    return done;
}

bool sink_write(wl_batch batch, wl_rejections *rejected, wl_error *err) {
    connector_list_option_string_t texts;
    wl_columns messages;
    types_method_batch_texts(types_borrow_batch(batch), &texts);
    wl_look(batch, &messages);
    wl_drop(batch);

    *rejected = (wl_rejections){0};
    wl_outbox outbox = {0};
    uint32_t *places = malloc((texts.len + 1) * sizeof *places);
    if (places == NULL) abort();
    for (size_t i = 0; i < messages.subjects.len; i++) wl_add_subject(&outbox, &messages.subjects.ptr[i]);
    for (uint32_t i = 0; i < texts.len; i++) {
        if (!texts.ptr[i].is_some) {
            wl_reject(rejected, i, "the payload is not UTF-8");
            continue;
        }
        size_t len;
        char *made = with_site(texts.ptr[i].val.ptr, texts.ptr[i].val.len, site, &len);
        places[outbox.ends.len] = i;
        wl_add(&outbox, (const uint8_t *)made, len, wl_subject(&messages, i));
        free(made);
    }
    connector_list_option_string_free(&texts);
    types_columns_free(&messages);
    bool done = publish(&outbox, places, rejected, err);
    if (!done) exports_windlass_connector_sink_list_rejection_free(rejected);
    free(places);
    return done;
}

void sink_close(void) {
    messaging_client_drop_own(client);
    free(topic);
    free(site);
}
