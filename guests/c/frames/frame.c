// See frame.h.

#include "frame.h"

#include "crc.h"

frame_state frame_next(const frame_layout *layout, const uint8_t *bytes, size_t len, frame *found) {
    size_t head = layout->length_bytes, tail = layout->crc32 ? 4 : 2;
    *found = (frame){bytes, len, len};
    if (len < head + tail) return FRAME_CUT;
    size_t payload = head == 2 ? (size_t)bytes[0] << 8 | bytes[1] : bytes[0];
    size_t whole = head + payload + tail;
    if (len < whole) return FRAME_CUT;
    uint32_t crc = layout->crc32 ? crc32_ieee(bytes, head + payload) : crc16_modbus(bytes, head + payload);
    uint32_t said = 0;
    for (size_t i = 0; i < tail; i++) said |= (uint32_t)bytes[head + payload + i] << 8 * i;
    if (crc != said) {
        *found = (frame){bytes, whole, whole};
        return FRAME_DAMAGED;
    }
    *found = (frame){bytes + head, payload, whole};
    return FRAME_GOOD;
}
