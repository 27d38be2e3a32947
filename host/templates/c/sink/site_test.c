// mkdir -p build && cc site_test.c site.c -o build/test && build/test

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "site.h"

int main(void) {
    const char *expected = "{\"site\":\"north\",\"data\":{\"a\":1}}";
    size_t len;
    char *made = with_site((const uint8_t *)"{\"a\":1}", 7, "north", &len);
    assert(len == strlen(expected) && memcmp(made, expected, len) == 0);
    free(made);
    puts("ok");
    return 0;
}
