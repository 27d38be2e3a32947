// Frames of a serial line: length, payload, checksum. No part of the contract in it.

#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    // Bytes of the length field, 1 or 2, the high one first. It counts the payload alone.
    unsigned length_bytes;
    // CRC-32 in place of CRC-16/MODBUS. It covers length and payload; its low byte goes first.
    bool crc32;
} frame_layout;

typedef enum {
    // A whole frame; its checksum fits.
    FRAME_GOOD,
    // A whole frame; its checksum does not fit.
    FRAME_DAMAGED,
    // Fewer bytes than the frame needs: the rest of what there is.
    FRAME_CUT,
} frame_state;

typedef struct {
    // Of a good frame its payload, of another all its bytes.
    const uint8_t *bytes;
    size_t len;
    // Bytes that this frame takes of the input, at least 1.
    size_t taken;
} frame;

// The frame at the beginning of these bytes, of which there is at least one.
frame_state frame_next(const frame_layout *layout, const uint8_t *bytes, size_t len, frame *found);

#endif
