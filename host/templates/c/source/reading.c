// See reading.h.

#include "reading.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *reading(const uint8_t *text, size_t len, const char *field) {
    char digits[64];
    while (len > 0 && isspace(text[len - 1])) len--;
    while (len > 0 && isspace(*text)) text++, len--;
    // Digits, sign, point and exponent only: strtod alone takes `nan` and hexadecimal too.
    if (len == 0 || len >= sizeof digits) return NULL;
    memcpy(digits, text, len);
    digits[len] = 0;
    if (strspn(digits, "+-.0123456789eE") != len) return NULL;
    char *end;
    double number = strtod(digits, &end);
    if (*end != 0 || !isfinite(number)) return NULL;

    // 17 digits are enough for any double; quotes and backslashes of the name take two bytes.
    char *json = malloc(2 * strlen(field) + 40), *out = json;
    if (json == NULL) abort();
    out += sprintf(out, "{\"");
    for (; *field; field++) {
        if (*field == '"' || *field == '\\') *out++ = '\\';
        *out++ = *field;
    }
    char shortest[32];
    for (int precision = 6; precision <= 17; precision++) {
        snprintf(shortest, sizeof shortest, "%.*g", precision, number);
        if (strtod(shortest, NULL) == number) break;
    }
    sprintf(out, "\":%s}", shortest);
    return json;
}
