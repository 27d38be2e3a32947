// See json.h. Finds values without building a tree; what is not JSON is not found.

#include "json.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *at, *end;
} cursor;

static void blanks(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

static bool take(cursor *c, uint8_t byte) {
    blanks(c);
    if (c->at == c->end || *c->at != byte) return false;
    c->at++;
    return true;
}

// Past a string that begins here.
static bool skip_string(cursor *c) {
    if (!take(c, '"')) return false;
    while (c->at < c->end) {
        uint8_t byte = *c->at++;
        if (byte == '"') return true;
        if (byte == '\\' && c->at < c->end) c->at++;
    }
    return false;
}

// Past a value of any kind: brackets are counted, not matched by kind.
static bool skip_value(cursor *c) {
    size_t depth = 0;
    do {
        blanks(c);
        if (c->at == c->end) return false;
        if (*c->at == '"') {
            if (!skip_string(c)) return false;
        } else if (*c->at == '{' || *c->at == '[') {
            c->at++;
            depth++;
        } else if (*c->at == '}' || *c->at == ']') {
            if (depth == 0) return false;
            c->at++;
            depth--;
        } else if (depth > 0 && (*c->at == ',' || *c->at == ':')) {
            c->at++;
        } else {
            const uint8_t *begin = c->at;
            while (c->at < c->end && strchr(",:]} \t\r\n", *c->at) == NULL) c->at++;
            if (c->at == begin) return false;
        }
    } while (depth > 0);
    return true;
}

static void put_utf8(char **out, uint32_t c) {
    uint8_t *o = (uint8_t *)*out;
    if (c < 0x80) {
        *o++ = (uint8_t)c;
    } else if (c < 0x800) {
        *o++ = (uint8_t)(0xc0 | c >> 6);
        *o++ = (uint8_t)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *o++ = (uint8_t)(0xe0 | c >> 12);
        *o++ = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        *o++ = (uint8_t)(0x80 | (c & 0x3f));
    } else {
        *o++ = (uint8_t)(0xf0 | c >> 18);
        *o++ = (uint8_t)(0x80 | (c >> 12 & 0x3f));
        *o++ = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        *o++ = (uint8_t)(0x80 | (c & 0x3f));
    }
    *out = (char *)o;
}

static bool hex4(const uint8_t *at, const uint8_t *end, uint32_t *value) {
    if (end - at < 4) return false;
    *value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = at[i];
        uint32_t digit = c >= '0' && c <= '9' ? c - (uint32_t)'0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10u : 16;
        if (digit == 16) return false;
        *value = *value << 4 | digit;
    }
    return true;
}

// The text of a string with its quotes, unescaped.
static char *unescape(const uint8_t *at, size_t len) {
    const uint8_t *end = at + len - 1;
    char *text = malloc(len), *out = text;
    if (text == NULL) abort();
    for (at++; at < end;) {
        if (*at != '\\') {
            *out++ = (char)*at++;
            continue;
        }
        at++;
        const char *which = "\"\"\\\\//b\bf\fn\nr\rt\t";
        uint32_t c, low;
        if (*at == 'u' && hex4(at + 1, end, &c)) {
            at += 5;
            if (c >= 0xd800 && c < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u' && hex4(at + 2, end, &low) &&
                low >= 0xdc00 && low < 0xe000) {
                at += 6;
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            } else if (c >= 0xd800 && c < 0xe000) {
                c = 0xfffd;
            }
            put_utf8(&out, c);
            continue;
        }
        for (; *which; which += 2) {
            if ((uint8_t)which[0] == *at) break;
        }
        *out++ = *which ? which[1] : (char)*at;
        at++;
    }
    *out = 0;
    return text;
}

bool json_member(const uint8_t *json, size_t len, const char *name, const uint8_t **value, size_t *value_len) {
    cursor c = {json, json + len};
    if (!take(&c, '{') || take(&c, '}')) return false;
    do {
        blanks(&c);
        const uint8_t *key = c.at;
        if (!skip_string(&c)) return false;
        size_t key_len = (size_t)(c.at - key);
        if (!take(&c, ':')) return false;
        blanks(&c);
        const uint8_t *begin = c.at;
        if (!skip_value(&c)) return false;
        char *known = unescape(key, key_len);
        bool same = strcmp(known, name) == 0;
        free(known);
        if (same) {
            *value = begin;
            *value_len = (size_t)(c.at - begin);
            return true;
        }
    } while (take(&c, ','));
    return false;
}

char *json_text(const uint8_t *json, size_t len, const char *name) {
    const uint8_t *value;
    size_t value_len;
    if (!json_member(json, len, name, &value, &value_len) || *value != '"') return NULL;
    return unescape(value, value_len);
}

double json_number(const uint8_t *json, size_t len, const char *name, double otherwise) {
    const uint8_t *value;
    size_t value_len;
    if (!json_member(json, len, name, &value, &value_len) || strchr("-0123456789", *value) == NULL) return otherwise;
    char digits[64] = {0};
    memcpy(digits, value, value_len < sizeof digits ? value_len : sizeof digits - 1);
    return strtod(digits, NULL);
}

bool json_flag(const uint8_t *json, size_t len, const char *name, bool otherwise) {
    const uint8_t *value;
    size_t value_len;
    if (!json_member(json, len, name, &value, &value_len)) return otherwise;
    if (value_len == 4 && memcmp(value, "true", 4) == 0) return true;
    if (value_len == 5 && memcmp(value, "false", 5) == 0) return false;
    return otherwise;
}
