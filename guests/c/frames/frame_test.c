// cc -I../sdk frame_test.c frame.c ../sdk/crc.c && ./a.out

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "frame.h"

int main(void) {
    frame_layout modbus = {.length_bytes = 1, .crc32 = false};
    frame found;

    // "abc" and an empty one, then one whose second byte was changed, then one cut short.
    const uint8_t line[] = {3, 'a', 'b', 'c', 0x38, 0xf7, 0, 0xbf, 0x40, 3, 'a', 'x', 'c', 0x38, 0xf7, 3, 'a'};
    size_t at = 0, left = sizeof line;
    assert(frame_next(&modbus, line, left, &found) == FRAME_GOOD);
    assert(found.len == 3 && memcmp(found.bytes, "abc", 3) == 0 && found.taken == 6);
    at += found.taken;
    assert(frame_next(&modbus, line + at, left - at, &found) == FRAME_GOOD);
    assert(found.len == 0 && found.taken == 3);
    at += found.taken;
    assert(frame_next(&modbus, line + at, left - at, &found) == FRAME_DAMAGED);
    assert(found.len == 6 && found.taken == 6 && found.bytes == line + at);
    at += found.taken;
    assert(frame_next(&modbus, line + at, left - at, &found) == FRAME_CUT);
    assert(found.len == 2 && found.taken == 2);
    assert(at + found.taken == sizeof line);

    // Two bytes of length, the high one first, and CRC-32.
    frame_layout wide = {.length_bytes = 2, .crc32 = true};
    const uint8_t one[] = {0, 1, 'x', 0x5d, 0x11, 0x84, 0xb8};
    assert(frame_next(&wide, one, sizeof one, &found) == FRAME_GOOD);
    assert(found.len == 1 && *found.bytes == 'x' && found.taken == sizeof one);
    for (size_t cut = 1; cut < sizeof one; cut++)
        assert(frame_next(&wide, one, cut, &found) == FRAME_CUT && found.taken == cut);
    puts("ok");
    return 0;
}
