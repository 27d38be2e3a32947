// `price`: takes each batch apart in one of four ways and gives or publishes one made of it, so that
// `windlass connector bench` shows what that way costs. The same connector stands in `guests/rust`,
// `guests/python` and `guests/js`.

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "windlass.h"

static enum { HANDLES, RECORDS, COLUMNS, TEXTS } way;
static wl_client broker;
static wl_subscription subscription;

void meta_describe(wl_descriptor *about) {
    wl_about(about, "price", "0.1.0", "Takes each batch apart and makes it again, to see what that costs.");
    wl_slot(about, "broker", "messaging", "Where the messages come from, or go.");
}

static void configure(const wl_text *config) {
    char *as = json_text(config->ptr, config->len, "as");
    way = as == NULL                     ? HANDLES
          : strcmp(as, "records") == 0   ? RECORDS
          : strcmp(as, "columns") == 0   ? COLUMNS
          : strcmp(as, "texts") == 0     ? TEXTS
                                         : HANDLES;
    free(as);
}

// Records: what came is what is given on, and the records are freed.
static wl_batch by_records(wl_batch batch) {
    types_list_message_t messages;
    types_method_batch_messages(types_borrow_batch(batch), &messages);
    wl_batch made = types_constructor_batch(&messages);
    types_list_message_free(&messages);
    return made;
}

// Columns, payload by payload.
static bool by_columns(wl_batch batch, wl_batch *made, wl_error *err) {
    wl_columns given;
    wl_look(batch, &given);
    wl_outbox outbox = {0};
    for (size_t i = 0; i < given.subjects.len; i++) wl_add_subject(&outbox, &given.subjects.ptr[i]);
    for (uint32_t i = 0; i < given.ends.len; i++) {
        wl_bytes payload = wl_payload(&given, i);
        wl_add(&outbox, payload.ptr, payload.len, wl_subject(&given, i));
    }
    types_columns_free(&given);
    return wl_send(&outbox, made, err);
}

static bool by_texts(wl_batch batch, wl_batch *made, wl_error *err) {
    connector_list_option_string_t given;
    types_method_batch_texts(types_borrow_batch(batch), &given);
    connector_list_string_t texts = {malloc((given.len + 1) * sizeof *texts.ptr), 0};
    if (texts.ptr == NULL) abort();
    while (texts.len < given.len && given.ptr[texts.len].is_some) {
        texts.ptr[texts.len] = given.ptr[texts.len].val;
        texts.len++;
    }
    bool done = texts.len == given.len || wl_permanent(err, "a message is not UTF-8");
    if (done) {
        wl_batch payloads = types_static_batch_from_texts(&texts);
        done = types_method_batch_with_payloads(types_borrow_batch(batch), types_borrow_batch(payloads), made, err);
        wl_drop(payloads);
    }
    // The texts themselves are those of the list.
    free(texts.ptr);
    connector_list_option_string_free(&given);
    return done;
}

// Takes `batch` and answers another.
static bool again(wl_batch batch, wl_batch *made, wl_error *err) {
    bool done = true;
    switch (way) {
    case HANDLES:
        *made = batch;
        return true;
    case RECORDS:
        *made = by_records(batch);
        break;
    case COLUMNS:
        done = by_columns(batch, made, err);
        break;
    case TEXTS:
        done = by_texts(batch, made, err);
        break;
    }
    wl_drop(batch);
    return done;
}

bool source_open(wl_text *config, wl_text *resume, wl_error *err) {
    char *datasource = json_text(config->ptr, config->len, "datasource");
    configure(config);
    bool done = wl_messaging("broker", &broker, err) &&
                wl_subscribe(broker, datasource == NULL ? "#" : datasource, -1, &subscription, err);
    free(datasource);
    connector_string_free(config);
    if (resume != NULL) connector_string_free(resume);
    return done;
}

bool source_read(wl_outcome *outcome, wl_error *err) {
    wl_batch arrived, made;
    if (!wl_receive(subscription, 1024, &arrived, err) || !again(arrived, &made, err)) return false;
    wl_deliver(outcome, made);
    return true;
}

void source_close(void) {
    messaging_subscription_drop_own(subscription);
    messaging_client_drop_own(broker);
}

bool sink_open(wl_text *config, wl_error *err) {
    configure(config);
    connector_string_free(config);
    return wl_messaging("broker", &broker, err);
}

bool sink_write(wl_batch batch, wl_rejections *rejected, wl_error *err) {
    wl_batch made;
    *rejected = (wl_rejections){0};
    if (!again(batch, &made, err)) return false;
    bool done = wl_publish(broker, made, NULL, -1, rejected, err);
    wl_drop(made);
    return done;
}

void sink_close(void) {
    messaging_client_drop_own(broker);
}
