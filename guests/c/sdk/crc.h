// Checksums of serial lines and files. No part of the contract in it.

#ifndef WINDLASS_CRC_H
#define WINDLASS_CRC_H

#include <stddef.h>
#include <stdint.h>

// CRC-16/MODBUS: polynomial 0x8005 reflected, from 0xffff. "123456789" gives 0x4b37.
uint16_t crc16_modbus(const uint8_t *bytes, size_t len);
// CRC-32 of Ethernet, zip and PNG (CRC-32/ISO-HDLC). "123456789" gives 0xcbf43926.
uint32_t crc32_ieee(const uint8_t *bytes, size_t len);

#endif
