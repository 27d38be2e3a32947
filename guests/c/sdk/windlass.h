// What an author of a connector in C needs: short names for the contract in `connector.h`, which is
// generated from wit/, and a few helpers. Every function that can fail answers false and fills `err`;
// pass it on with `return false`.
//
// Who frees what: arguments of the functions that you define are yours to free (`..._free`, `wl_drop`),
// results that you fill are freed for you after the call. The helpers copy what they keep.

#ifndef WINDLASS_H
#define WINDLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connector.h"

typedef connector_string_t wl_text;
typedef connector_list_u8_t wl_bytes;
typedef types_error_t wl_error;
typedef types_own_batch_t wl_batch;
typedef types_columns_t wl_columns;
typedef exports_windlass_connector_meta_descriptor_t wl_descriptor;
typedef exports_windlass_connector_source_outcome_t wl_outcome;
typedef exports_windlass_connector_sink_list_rejection_t wl_rejections;
typedef messaging_own_client_t wl_client;
typedef messaging_own_subscription_t wl_subscription;

// ----- what a connector defines: `meta_describe`, and the three of a source, of a sink, or all -----

#define meta_describe exports_windlass_connector_meta_describe
#define source_open exports_windlass_connector_source_open
#define source_read exports_windlass_connector_source_read
#define source_close exports_windlass_connector_source_close
#define sink_open exports_windlass_connector_sink_open
#define sink_write exports_windlass_connector_sink_write
#define sink_close exports_windlass_connector_sink_close

// The text of `schema.json` beside the connector: the build puts it here.
extern const char windlass_schema[];

// ----- texts --------------------------------------------------------------------------------------

// A text that points at `s`, for arguments: nothing is copied, nothing may be freed.
wl_text wl_literal(const char *s);
// A text of one's own, as by printf.
wl_text wl_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
// A copy that ends with a zero byte, as C's functions want it. To be freed with `free`.
char *wl_chars(const wl_text *text);

// ----- what a connector says of itself ------------------------------------------------------------

void wl_about(wl_descriptor *about, const char *name, const char *version, const char *description);
// A connection that it needs: the interface is `messaging`, `http` or `sql`.
void wl_slot(wl_descriptor *about, const char *name, const char *interface, const char *description);

// ----- errors: they answer false, so that `return wl_permanent(...)` ends a function ---------------

// This configuration cannot work: the rule stops.
bool wl_misconfigured(wl_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
// This input can never succeed: it becomes a dead letter.
bool wl_permanent(wl_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The same call may succeed later: the host tries again.
bool wl_transient(wl_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
// One message of the batch could not be written, by its place in it.
void wl_reject(wl_rejections *rejected, uint32_t index, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// A line for the host's log; levels LOG_LEVEL_TRACE to LOG_LEVEL_ERROR.
void wl_log(log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// ----- messaging ----------------------------------------------------------------------------------

// By the name of a slot.
bool wl_messaging(const char *slot, wl_client *client, wl_error *err);
// `subjects` with commas between them. A negative qos: as the connection is configured.
bool wl_subscribe(wl_client client, const char *subjects, int qos, wl_subscription *subscription, wl_error *err);
// Waits for messages, `most` at most. An empty batch means: return now.
bool wl_receive(wl_subscription subscription, uint32_t most, wl_batch *batch, wl_error *err);
// To this subject; NULL: each message to its own. Adds to the rejections.
bool wl_publish(wl_client client, wl_batch batch, const char *subject, int qos, wl_rejections *rejected,
                wl_error *err);

// ----- batches ------------------------------------------------------------------------------------

// Every batch that is not returned must be dropped, on the way of an error too.
void wl_drop(wl_batch batch);
// The contents, to be freed with `types_columns_free`.
void wl_look(wl_batch batch, wl_columns *columns);
// Payload `i` of the columns: it points into them.
wl_bytes wl_payload(const wl_columns *columns, uint32_t i);
// The place of its subject in `columns->subjects`; UINT32_MAX: it has none.
uint32_t wl_subject(const wl_columns *columns, uint32_t i);

// What `source_read` answers.
void wl_deliver(wl_outcome *outcome, wl_batch batch);

// A batch in the making.
typedef struct {
    wl_bytes payloads;
    size_t room;
    connector_list_u32_t ends, subject_of;
    size_t count_room;
    connector_list_string_t subjects;
} wl_outbox;

// Subjects first: answers the place to name in `wl_add`.
uint32_t wl_add_subject(wl_outbox *outbox, const wl_text *subject);
void wl_add(wl_outbox *outbox, const uint8_t *payload, size_t len, uint32_t subject);
// In pieces: the bytes of one message, then its end.
void wl_add_bytes(wl_outbox *outbox, const uint8_t *bytes, size_t len);
void wl_end(wl_outbox *outbox, uint32_t subject);
// Makes the batch and empties the outbox, also where it fails.
bool wl_send(wl_outbox *outbox, wl_batch *batch, wl_error *err);

#endif
