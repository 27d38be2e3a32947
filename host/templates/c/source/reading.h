// What {{name}} makes of a payload. No part of the contract in it, so that it can be tested anywhere.

#ifndef READING_H
#define READING_H

#include <stddef.h>
#include <stdint.h>

// A number as text, as JSON `{"<field>":<number>}`, to be freed; NULL: it is no number.
char *reading(const uint8_t *text, size_t len, const char *field);

#endif
