// See windlass.h. Memory that cannot be had ends the instance: the host gives the messages again.

#include "windlass.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The generated bindings name this to draw in an object that describes the world; here the world is put
// into the component by `windlass connector build`, from the same wit/.
void __component_type_object_force_link_connector(void);
void __component_type_object_force_link_connector(void) {}

static void *wanted(void *memory) {
    if (memory == NULL) abort();
    return memory;
}

// A connector that is no sink, or no source, leaves those to these. They are never called: the world
// that it is built for does not have them.
__attribute__((weak)) bool source_open(wl_text *config, wl_text *resume, wl_error *err) {
    (void)config, (void)resume;
    return wl_misconfigured(err, "this connector is no source");
}
__attribute__((weak)) bool source_read(wl_outcome *outcome, wl_error *err) {
    (void)outcome;
    return wl_misconfigured(err, "this connector is no source");
}
__attribute__((weak)) void source_close(void) {}
__attribute__((weak)) bool sink_open(wl_text *config, wl_error *err) {
    (void)config;
    return wl_misconfigured(err, "this connector is no sink");
}
__attribute__((weak)) bool sink_write(wl_batch messages, wl_rejections *rejected, wl_error *err) {
    (void)messages, (void)rejected;
    return wl_misconfigured(err, "this connector is no sink");
}
__attribute__((weak)) void sink_close(void) {}

// ----- texts --------------------------------------------------------------------------------------

wl_text wl_literal(const char *s) {
    return (wl_text){(uint8_t *)s, strlen(s)};
}

static wl_text format_list(const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int len = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (len < 0) return (wl_text){NULL, 0};
    char *s = wanted(malloc((size_t)len + 1));
    vsnprintf(s, (size_t)len + 1, format, arguments);
    return (wl_text){(uint8_t *)s, (size_t)len};
}

#define FORMATTED(text)                      \
    va_list arguments;                       \
    va_start(arguments, format);             \
    wl_text text = format_list(format, arguments); \
    va_end(arguments)

wl_text wl_format(const char *format, ...) {
    FORMATTED(text);
    return text;
}

char *wl_chars(const wl_text *text) {
    char *s = wanted(malloc(text->len + 1));
    if (text->len > 0) memcpy(s, text->ptr, text->len);
    s[text->len] = 0;
    return s;
}

static wl_text copy(const char *s) {
    wl_text text;
    connector_string_dup(&text, s);
    return text;
}

// ----- what a connector says of itself ------------------------------------------------------------

void wl_about(wl_descriptor *about, const char *name, const char *version, const char *description) {
    about->name = copy(name);
    about->version = copy(version);
    about->description = copy(description);
    about->config_schema = copy(windlass_schema);
    about->slots.ptr = NULL;
    about->slots.len = 0;
}

void wl_slot(wl_descriptor *about, const char *name, const char *interface, const char *description) {
    size_t n = about->slots.len;
    about->slots.ptr = wanted(realloc(about->slots.ptr, (n + 1) * sizeof *about->slots.ptr));
    about->slots.ptr[n] = (exports_windlass_connector_meta_slot_t){
        .name = copy(name), .interface = copy(interface), .optional = false, .description = copy(description)};
    about->slots.len = n + 1;
}

// ----- errors -------------------------------------------------------------------------------------

static bool fail(wl_error *err, types_kind_t kind, const char *code, wl_text message) {
    *err = (wl_error){.kind = kind, .code = copy(code), .message = message};
    return false;
}

bool wl_misconfigured(wl_error *err, const char *format, ...) {
    FORMATTED(message);
    return fail(err, TYPES_KIND_MISCONFIGURED, "config", message);
}

bool wl_permanent(wl_error *err, const char *format, ...) {
    FORMATTED(message);
    return fail(err, TYPES_KIND_PERMANENT, "content", message);
}

bool wl_transient(wl_error *err, const char *format, ...) {
    FORMATTED(message);
    return fail(err, TYPES_KIND_TRANSIENT, "transient", message);
}

void wl_reject(wl_rejections *rejected, uint32_t index, const char *format, ...) {
    FORMATTED(message);
    size_t n = rejected->len;
    rejected->ptr = wanted(realloc(rejected->ptr, (n + 1) * sizeof *rejected->ptr));
    rejected->ptr[n].index = index;
    fail(&rejected->ptr[n].error, TYPES_KIND_PERMANENT, "content", message);
    rejected->len = n + 1;
}

void wl_log(log_level_t level, const char *format, ...) {
    FORMATTED(message);
    log_write(level, &message);
    connector_string_free(&message);
}

// ----- messaging ----------------------------------------------------------------------------------

bool wl_messaging(const char *slot, wl_client *client, wl_error *err) {
    wl_text id = wl_literal(slot);
    return messaging_static_client_open(&id, client, err);
}

bool wl_subscribe(wl_client client, const char *subjects, int qos, wl_subscription *subscription, wl_error *err) {
    size_t most = 1;
    for (const char *c = subjects; *c; c++) most += *c == ',';
    connector_list_string_t list = {wanted(calloc(most, sizeof *list.ptr)), 0};
    for (const char *c = subjects; *c;) {
        size_t len = strcspn(c, ",");
        const char *begin = c, *end = c + len;
        while (begin < end && *begin == ' ') begin++;
        while (begin < end && end[-1] == ' ') end--;
        if (begin < end) list.ptr[list.len++] = (wl_text){(uint8_t *)begin, (size_t)(end - begin)};
        c += len + (c[len] == ',');
    }
    messaging_subscribe_options_t options = {0};
    options.qos.is_some = qos >= 0;
    options.qos.val = (messaging_qos_t)qos;
    bool done = list.len > 0
                    ? messaging_method_client_subscribe(messaging_borrow_client(client), &list, &options, subscription, err)
                    : wl_misconfigured(err, "datasource: a subject is required");
    free(list.ptr);
    return done;
}

bool wl_receive(wl_subscription subscription, uint32_t most, wl_batch *batch, wl_error *err) {
    return messaging_method_subscription_receive(messaging_borrow_subscription(subscription), most, NULL, batch, err);
}

bool wl_publish(wl_client client, wl_batch batch, const char *subject, int qos, wl_rejections *rejected,
                wl_error *err) {
    messaging_publish_options_t options = {0};
    options.subject.is_some = subject != NULL;
    if (subject != NULL) options.subject.val = wl_literal(subject);
    options.qos.is_some = qos >= 0;
    options.qos.val = (messaging_qos_t)qos;
    messaging_list_rejection_t refused;
    if (!messaging_method_client_publish(messaging_borrow_client(client), types_borrow_batch(batch), &options, &refused,
                                         err))
        return false;
    if (refused.len > 0) {
        size_t n = rejected->len;
        rejected->ptr = wanted(realloc(rejected->ptr, (n + refused.len) * sizeof *rejected->ptr));
        memcpy(rejected->ptr + n, refused.ptr, refused.len * sizeof *rejected->ptr);
        rejected->len = n + refused.len;
        free(refused.ptr);
    }
    return true;
}

// ----- batches ------------------------------------------------------------------------------------

void wl_drop(wl_batch batch) {
    types_batch_drop_own(batch);
}

void wl_look(wl_batch batch, wl_columns *columns) {
    types_method_batch_columns(types_borrow_batch(batch), columns);
}

wl_bytes wl_payload(const wl_columns *columns, uint32_t i) {
    uint32_t begin = i == 0 ? 0 : columns->ends.ptr[i - 1];
    return (wl_bytes){columns->payloads.ptr + begin, columns->ends.ptr[i] - begin};
}

uint32_t wl_subject(const wl_columns *columns, uint32_t i) {
    if (columns->subject_of.len > 0) return columns->subject_of.ptr[i];
    return columns->subjects.len > 0 ? 0 : UINT32_MAX;
}

void wl_deliver(wl_outcome *outcome, wl_batch batch) {
    outcome->tag = EXPORTS_WINDLASS_CONNECTOR_SOURCE_OUTCOME_MESSAGES;
    outcome->val.messages.batch = batch;
    outcome->val.messages.checkpoint.is_some = false;
}

uint32_t wl_add_subject(wl_outbox *outbox, const wl_text *subject) {
    size_t n = outbox->subjects.len;
    outbox->subjects.ptr = wanted(realloc(outbox->subjects.ptr, (n + 1) * sizeof *outbox->subjects.ptr));
    connector_string_dup_n(&outbox->subjects.ptr[n], (const char *)subject->ptr, subject->len);
    outbox->subjects.len = n + 1;
    return (uint32_t)n;
}

void wl_add_bytes(wl_outbox *outbox, const uint8_t *bytes, size_t len) {
    if (outbox->payloads.len + len > outbox->room) {
        outbox->room = 2 * outbox->room + len + 256;
        outbox->payloads.ptr = wanted(realloc(outbox->payloads.ptr, outbox->room));
    }
    if (len > 0) memcpy(outbox->payloads.ptr + outbox->payloads.len, bytes, len);
    outbox->payloads.len += len;
}

void wl_end(wl_outbox *outbox, uint32_t subject) {
    size_t n = outbox->ends.len;
    if (n == outbox->count_room) {
        outbox->count_room = 2 * n + 64;
        outbox->ends.ptr = wanted(realloc(outbox->ends.ptr, outbox->count_room * sizeof(uint32_t)));
        outbox->subject_of.ptr = wanted(realloc(outbox->subject_of.ptr, outbox->count_room * sizeof(uint32_t)));
    }
    if (subject == UINT32_MAX) {
        // Without a subject: the empty one.
        wl_text none = {NULL, 0};
        subject = 0;
        while (subject < outbox->subjects.len && outbox->subjects.ptr[subject].len > 0) subject++;
        if (subject == outbox->subjects.len) wl_add_subject(outbox, &none);
    }
    outbox->ends.ptr[n] = (uint32_t)outbox->payloads.len;
    outbox->subject_of.ptr[n] = subject;
    outbox->ends.len = outbox->subject_of.len = n + 1;
}

void wl_add(wl_outbox *outbox, const uint8_t *payload, size_t len, uint32_t subject) {
    wl_add_bytes(outbox, payload, len);
    wl_end(outbox, subject);
}

bool wl_send(wl_outbox *outbox, wl_batch *batch, wl_error *err) {
    wl_columns columns = {outbox->payloads, outbox->ends, outbox->subjects, outbox->subject_of};
    bool done = types_static_batch_from_columns(&columns, batch, err);
    types_columns_free(&columns);
    free(outbox->room > 0 && outbox->payloads.len == 0 ? outbox->payloads.ptr : NULL);
    *outbox = (wl_outbox){0};
    return done;
}
