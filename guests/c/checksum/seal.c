// See seal.h.

#include "seal.h"

#include <string.h>

#include "crc.h"

bool seal_fits(const seal_layout *layout, size_t payload) {
    return layout->length_bytes == 0 || payload < (size_t)1 << 8 * layout->length_bytes;
}

size_t seal(const seal_layout *layout, const uint8_t *bytes, size_t payload, uint8_t *frame) {
    size_t head = layout->length_bytes, tail = layout->crc32 ? 4 : 2;
    if (head == 1) frame[0] = (uint8_t)payload;
    if (head == 2) frame[0] = (uint8_t)(payload >> 8), frame[1] = (uint8_t)payload;
    if (payload > 0) memcpy(frame + head, bytes, payload);
    uint32_t crc = layout->crc32 ? crc32_ieee(frame, head + payload) : crc16_modbus(frame, head + payload);
    for (size_t i = 0; i < tail; i++) frame[head + payload + i] = (uint8_t)(crc >> 8 * i);
    return head + payload + tail;
}
