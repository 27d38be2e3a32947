// cc -I../sdk seal_test.c seal.c ../sdk/crc.c && ./a.out

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "seal.h"

int main(void) {
    uint8_t frame[64];
    seal_layout modbus = {.length_bytes = 1, .crc32 = false};
    const uint8_t abc[] = {3, 'a', 'b', 'c', 0x38, 0xf7};
    assert(seal(&modbus, abc + 1, 3, frame) == sizeof abc && memcmp(frame, abc, sizeof abc) == 0);
    assert(seal_fits(&modbus, 255) && !seal_fits(&modbus, 256));

    seal_layout bare = {.length_bytes = 0, .crc32 = true};
    const uint8_t digits[] = "123456789\x26\x39\xf4\xcb";
    assert(seal(&bare, digits, 9, frame) == 13 && memcmp(frame, digits, 13) == 0);
    assert(seal_fits(&bare, (size_t)1 << 30));

    seal_layout wide = {.length_bytes = 2, .crc32 = true};
    assert(seal(&wide, digits, 0, frame) == SEAL_MOST && frame[0] == 0 && frame[1] == 0);
    assert(seal_fits(&wide, 65535) && !seal_fits(&wide, 65536));
    puts("ok");
    return 0;
}
