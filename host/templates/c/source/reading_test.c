// mkdir -p build && cc reading_test.c reading.c -lm -o build/test && build/test

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reading.h"

static void expect(const char *text, const char *field, const char *json) {
    char *made = reading((const uint8_t *)text, strlen(text), field);
    if (json == NULL)
        assert(made == NULL);
    else
        assert(made != NULL && strcmp(made, json) == 0);
    free(made);
}

int main(void) {
    expect(" 21.5\n", "value", "{\"value\":21.5}");
    expect("-3", "a\"b", "{\"a\\\"b\":-3}");
    expect("0.1", "v", "{\"v\":0.1}");
    expect("warm", "value", NULL);
    expect("nan", "value", NULL);
    expect("0x10", "value", NULL);
    expect("", "value", NULL);
    puts("ok");
    return 0;
}
