// What {{name}} makes of a payload. No part of the contract in it, so that it can be tested anywhere.

#ifndef SITE_H
#define SITE_H

#include <stddef.h>
#include <stdint.h>

// `{"site":"<site>","data":<json>}`, to be freed; its length goes to `made_len`.
char *with_site(const uint8_t *json, size_t len, const char *site, size_t *made_len);

#endif
