// `checksum`: a sink for serial lines. Puts each payload into a frame with its length and a CRC and
// publishes it. A payload that is too long for the length field becomes a dead letter; the others of
// its batch go out.

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "seal.h"
#include "windlass.h"

static seal_layout layout;
static wl_client line;
static char *topic;
static int qos;

void meta_describe(wl_descriptor *about) {
    wl_about(about, "checksum", "0.1.0", "Frames payloads with their length and a checksum, and publishes them.");
    wl_slot(about, "line", "messaging", "Where the frames go.");
}

bool sink_open(wl_text *config, wl_error *err) {
    char *checksum = json_text(config->ptr, config->len, "checksum");
    layout.length_bytes = (unsigned)json_number(config->ptr, config->len, "lengthBytes", 1);
    layout.crc32 = checksum != NULL && strcmp(checksum, "crc32") == 0;
    topic = json_text(config->ptr, config->len, "topic");
    qos = (int)json_number(config->ptr, config->len, "qos", 1);
    free(checksum);
    connector_string_free(config);
    return wl_messaging("line", &line, err);
}

// The frames of a batch, under the subjects of its messages, and which message each of them is.
static uint32_t *pack(const wl_columns *messages, wl_outbox *outbox, uint32_t *count, wl_rejections *rejected) {
    uint32_t *places = malloc((messages->ends.len + 1) * sizeof *places);
    if (places == NULL) abort();
    for (size_t i = 0; i < messages->subjects.len; i++) wl_add_subject(outbox, &messages->subjects.ptr[i]);
    *count = 0;
    for (uint32_t i = 0; i < messages->ends.len; i++) {
        wl_bytes payload = wl_payload(messages, i);
        if (!seal_fits(&layout, payload.len)) {
            wl_reject(rejected, i, "%zu bytes are more than a length of %u byte can say", payload.len,
                      layout.length_bytes);
            continue;
        }
        uint8_t *frame = malloc(payload.len + SEAL_MOST);
        if (frame == NULL) abort();
        wl_add(outbox, frame, seal(&layout, payload.ptr, payload.len, frame), wl_subject(messages, i));
        free(frame);
        places[(*count)++] = i;
    }
    return places;
}

bool sink_write(wl_batch batch, wl_rejections *rejected, wl_error *err) {
    wl_columns messages;
    wl_look(batch, &messages);
    wl_drop(batch);
    *rejected = (wl_rejections){0};
    wl_outbox outbox = {0};
    uint32_t count;
    uint32_t *places = pack(&messages, &outbox, &count, rejected);
    types_columns_free(&messages);

    wl_batch frames;
    bool done = wl_send(&outbox, &frames, err);
    if (done) {
        // What the line refuses is refused by its place among the frames: say it by that of its message.
        size_t own = rejected->len;
        done = count == 0 || wl_publish(line, frames, topic, qos, rejected, err);
        for (size_t i = own; done && i < rejected->len; i++) rejected->ptr[i].index = places[rejected->ptr[i].index];
        wl_drop(frames);
    }
    if (!done) exports_windlass_connector_sink_list_rejection_free(rejected);
    free(places);
    return done;
}

void sink_close(void) {
    messaging_client_drop_own(line);
    free(topic);
}
