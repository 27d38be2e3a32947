import json
import pathlib
import tomllib
import unittest

import app
from windlass import Misconfigured, Permanent
from windlass_testing import Message, reader

MAP = [
    {"name": "temperature", "address": 100, "type": "int16", "scale": 0.1},
    {"name": "energy", "address": 101, "type": "uint32", "wordOrder": "little"},
    {"name": "flow", "address": 103, "type": "float32"},
    {"name": "total", "address": 105, "type": "int64"},
    {"name": "alarm", "address": 109, "type": "bool", "bit": 3},
    {"name": "model", "address": 110, "type": "string", "length": 3},
]
# 21.3 as float32 is 0x41AA6666.
WORDS = [0xFF85, 0x0001, 0x0002, 0x41AA, 0x6666, 0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF, 0x0008, 0x4142, 0x4300, 0x2020]
VALUES = {
    "temperature": -12.3,
    "energy": 0x20001,
    "flow": 21.3,
    "total": 2**63 - 1,
    "alarm": True,
    "model": "ABC",
}


def read(payload, **config):
    config = {"datasource": "plc/+", "map": MAP, **config}
    batch = reader(app.ModbusMap, config, [Message(payload, "plc/1")], "blocks")
    return [(one.subject, json.loads(one.payload)) for one in batch.messages()]


def block(**fields):
    return json.dumps({"unit": 7, "address": 100, "registers": WORDS, **fields}).encode()


class Decoding(unittest.TestCase):
    def test_every_type_is_decoded_with_its_word_order_and_scale(self):
        self.assertEqual(read(block()), [("plc/1", {"unit": 7, **VALUES})])

    def test_a_block_gives_what_lies_wholly_in_it_and_nothing_else(self):
        self.assertEqual(read(block(address=102, registers=WORDS[2:5])), [("plc/1", {"unit": 7, "flow": 21.3})])
        self.assertEqual(read(block(address=5000)), [])

    def test_other_units_are_left_out_and_the_unit_needs_no_field(self):
        self.assertEqual(read(block(), unit=8), [])
        self.assertEqual(read(block(), unit=7, unitField=""), [("plc/1", VALUES)])

    def test_what_is_no_number_is_null(self):
        lines = [{"name": "x", "address": 0, "type": "float32"}]
        self.assertEqual(read(block(address=0, registers=[0x7FC0, 0]), map=lines, unitField=""), [("plc/1", {"x": None})])


class Framing(unittest.TestCase):
    RAW = b"".join(word.to_bytes(2, "big") for word in WORDS)

    def test_raw_rtu_and_tcp_frames_carry_the_same_registers(self):
        answer = bytes([3, len(self.RAW)]) + self.RAW
        rtu = b"\x07" + answer
        rtu += app.crc16(rtu).to_bytes(2, "little")
        tcp = b"\0\1\0\0" + (len(answer) + 1).to_bytes(2, "big") + b"\x07" + answer
        self.assertEqual(read(self.RAW, frame="raw", address=100), [("plc/1", VALUES)])
        for frame, payload in (("rtu", rtu), ("tcp", tcp)):
            self.assertEqual(read(payload, frame=frame, address=100), [("plc/1", {"unit": 7, **VALUES})])

    def test_the_checksum_is_the_one_of_the_standard(self):
        self.assertEqual(app.crc16(b"123456789"), 0x4B37)

    def test_what_is_no_block_is_permanent_and_says_why(self):
        for payload, frame, words in (
            (b"{", "json", "not JSON"),
            (b"[]", "json", "not an object"),
            (block(registers=[70000]), "json", "registers"),
            (block(address="x"), "json", "address"),
            (b"abc", "raw", "no whole registers"),
            (b"\x07\x03\x02\x00\x01\x00\x00", "rtu", "checksum"),
            (b"\0\1\0\0\0\3\x07\x83\x02", "tcp", "exception 2"),
        ):
            with self.subTest(frame=frame, payload=payload), self.assertRaisesRegex(Permanent, words):
                read(payload, frame=frame)


class Configuring(unittest.TestCase):
    def test_a_map_that_contradicts_itself_is_misconfigured(self):
        for lines, words in (
            ([MAP[0], MAP[0]], "twice"),
            ([{"name": "s", "address": 1, "type": "string"}], "length"),
            ([{"name": "l", "address": 65533, "type": "int64"}], "65535"),
            ([{"name": "unit", "address": 1, "type": "int16"}], "unitField"),
        ):
            with self.subTest(words=words), self.assertRaisesRegex(Misconfigured, words):
                read(block(), map=lines)

    def test_name_and_version_are_those_of_the_project(self):
        project = tomllib.loads(pathlib.Path(__file__).with_name("pyproject.toml").read_text())["project"]
        self.assertEqual((app.connector.name, app.connector.version), (project["name"], project["version"]))


if __name__ == "__main__":
    unittest.main()
