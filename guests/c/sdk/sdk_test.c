// Tests of json.c and crc.c, on the machine at hand: cc sdk_test.c json.c crc.c && ./a.out

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crc.h"
#include "json.h"

static const char *json = "{ \"a\": {\"topic\": \"inner\", \"x\": [1, {\"}\": 2}]}, \"topic\": \"in\\/\\u00e9\\ud83d\\ude00\\n\","
                          "\"n\": -2.5e1 , \"yes\":true,\"no\" : false, \"t\\u0065xt\": \"\"}";

static char *text(const char *name) {
    return json_text((const uint8_t *)json, strlen(json), name);
}

int main(void) {
    const uint8_t *bytes = (const uint8_t *)json;
    size_t len = strlen(json);

    char *topic = text("topic");
    assert(strcmp(topic, "in/\xc3\xa9\xf0\x9f\x98\x80\n") == 0);
    free(topic);
    char *empty = text("text");
    assert(empty != NULL && *empty == 0);
    free(empty);
    assert(text("n") == NULL && text("nothing") == NULL);
    assert(json_number(bytes, len, "n", 7) == -25);
    assert(json_number(bytes, len, "topic", 7) == 7 && json_number(bytes, len, "none", 7) == 7);
    assert(json_flag(bytes, len, "yes", false) && !json_flag(bytes, len, "no", true));
    assert(json_flag(bytes, len, "n", true));

    // What is cut short or no object is not found, and nothing is read beyond its end.
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *part = malloc(cut + 1);
        memcpy(part, json, cut);
        part[cut] = '"';
        free(json_text(part, cut, "text"));
        free(json_text(part, cut, "topic"));
        free(part);
    }
    const uint8_t *value;
    size_t value_len;
    assert(!json_member((const uint8_t *)"[1]", 3, "a", &value, &value_len));
    assert(!json_member((const uint8_t *)"{}", 2, "a", &value, &value_len));
    assert(!json_member((const uint8_t *)"{\"a\":}", 6, "a", &value, &value_len));

    assert(crc16_modbus((const uint8_t *)"123456789", 9) == 0x4b37);
    assert(crc32_ieee((const uint8_t *)"123456789", 9) == 0xcbf43926);
    puts("ok");
    return 0;
}
