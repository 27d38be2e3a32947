// The way into a frame: length, payload, checksum. No part of the contract in it.

#ifndef SEAL_H
#define SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Around any payload.
#define SEAL_MOST 6

typedef struct {
    // Bytes of the length field before the payload: 1 or 2, the high one first; 0: none.
    unsigned length_bytes;
    // CRC-32 in place of CRC-16/MODBUS. It covers length and payload; its low byte goes first.
    bool crc32;
} seal_layout;

// Whether a payload of so many bytes fits.
bool seal_fits(const seal_layout *layout, size_t payload);
// Writes the frame: its size is `payload` + what comes around it (SEAL_MOST at most).
size_t seal(const seal_layout *layout, const uint8_t *bytes, size_t payload, uint8_t *frame);

#endif
