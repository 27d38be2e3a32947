// See site.h.

#include "site.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *with_site(const uint8_t *json, size_t len, const char *site, size_t *made_len) {
    char *made = malloc(strlen(site) + len + 32);
    if (made == NULL) abort();
    size_t at = (size_t)sprintf(made, "{\"site\":\"%s\",\"data\":", site);
    if (len > 0) memcpy(made + at, json, len);
    made[at + len] = '}';
    *made_len = at + len + 1;
    return made;
}
