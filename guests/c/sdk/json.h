// A small reader for a connector's configuration: members of one JSON object by name. It has no part
// of the contract in it, so that it can be tested on any machine.

#ifndef WINDLASS_JSON_H
#define WINDLASS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The value of a member of the object in `json`, as its bytes stand there. False: there is none, or
// `json` is no object.
bool json_member(const uint8_t *json, size_t len, const char *name, const uint8_t **value, size_t *value_len);

// The same as a text of one's own (to be freed), without quotes and escapes; NULL: none, or no string.
char *json_text(const uint8_t *json, size_t len, const char *name);
// The same as a number; `otherwise` where there is none.
double json_number(const uint8_t *json, size_t len, const char *name, double otherwise);
// The same as true or false; `otherwise` where there is none.
bool json_flag(const uint8_t *json, size_t len, const char *name, bool otherwise);

#endif
