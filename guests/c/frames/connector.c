// `frames`: a source for what comes off serial lines. Each payload of its topics holds one or more
// frames `[length][payload][checksum]`; the payloads whose checksum fits go on under the subject on
// which they came. A damaged frame does not spoil those behind it.

#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "json.h"
#include "windlass.h"

static frame_layout layout;
static wl_subscription subscription;
static uint32_t most;
// What becomes of frames that are damaged or cut short: nothing, a line in the log, or a message.
static bool say, forward;
static wl_text broken_subject;
static unsigned long long broken_so_far;

void meta_describe(wl_descriptor *about) {
    wl_about(about, "frames", "0.1.0", "Takes payloads out of serial frames and checks their checksums.");
    wl_slot(about, "line", "messaging", "Where the frames come from.");
}

static bool configure(const wl_text *config, wl_error *err) {
    char *checksum = json_text(config->ptr, config->len, "checksum");
    char *broken = json_text(config->ptr, config->len, "broken");
    char *subject = json_text(config->ptr, config->len, "brokenSubject");
    layout.length_bytes = (unsigned)json_number(config->ptr, config->len, "lengthBytes", 1);
    layout.crc32 = checksum != NULL && strcmp(checksum, "crc32") == 0;
    most = (uint32_t)json_number(config->ptr, config->len, "bufferLength", 1024);
    say = broken == NULL || strcmp(broken, "log") == 0;
    forward = broken != NULL && strcmp(broken, "forward") == 0;
    bool complete = !forward || subject != NULL;
    if (forward && complete) broken_subject = wl_format("%s", subject);
    free(checksum), free(broken), free(subject);
    return complete || wl_misconfigured(err, "brokenSubject: needed where broken is \"forward\"");
}

bool source_open(wl_text *config, wl_text *resume, wl_error *err) {
    char *datasource = json_text(config->ptr, config->len, "datasource");
    int qos = (int)json_number(config->ptr, config->len, "qos", 1);
    bool done = configure(config, err);
    wl_client client;
    if (done) {
        done = wl_messaging("line", &client, err);
        if (done) {
            done = wl_subscribe(client, datasource == NULL ? "" : datasource, qos, &subscription, err);
            messaging_client_drop_own(client);
        }
    }
    free(datasource);
    connector_string_free(config);
    if (resume != NULL) connector_string_free(resume);
    return done;
}

// Puts the frames of one payload into the outbox; answers how many are broken.
static unsigned long long unpack(wl_outbox *outbox, wl_bytes line, uint32_t subject, uint32_t broken_place) {
    unsigned long long broken = 0;
    while (line.len > 0) {
        frame found;
        if (frame_next(&layout, line.ptr, line.len, &found) == FRAME_GOOD) {
            wl_add(outbox, found.bytes, found.len, subject);
        } else {
            broken++;
            if (forward) wl_add(outbox, found.bytes, found.len, broken_place);
        }
        line.ptr += found.taken;
        line.len -= found.taken;
    }
    return broken;
}

bool source_read(wl_outcome *outcome, wl_error *err) {
    wl_batch arrived, batch;
    if (!wl_receive(subscription, most, &arrived, err)) return false;
    wl_columns lines;
    wl_look(arrived, &lines);
    wl_drop(arrived);

    wl_outbox outbox = {0};
    for (size_t i = 0; i < lines.subjects.len; i++) wl_add_subject(&outbox, &lines.subjects.ptr[i]);
    uint32_t broken_place = forward ? wl_add_subject(&outbox, &broken_subject) : 0;
    unsigned long long broken = 0;
    for (uint32_t i = 0; i < lines.ends.len; i++)
        broken += unpack(&outbox, wl_payload(&lines, i), wl_subject(&lines, i), broken_place);
    types_columns_free(&lines);
    broken_so_far += broken;
    if (broken > 0 && say)
        wl_log(LOG_LEVEL_WARN, "%llu broken frames left out, %llu since this instance was opened", broken,
               broken_so_far);
    if (!wl_send(&outbox, &batch, err)) return false;
    wl_deliver(outcome, batch);
    return true;
}

void source_close(void) {
    messaging_subscription_drop_own(subscription);
}
