"""`modbus-map`: takes blocks of raw Modbus registers from a subject and gives decoded objects.

What the registers mean stands in `map`; how a block comes, in `frame`. A block that cannot be read is
`permanent`: the host looks for the message and dead-letters it alone.
"""

import json
import struct

from windlass import Connector, Misconfigured, Permanent, Slot, Source, messages_of, messaging, payloads_of, subjects_of

#: Type: how many registers, and the letter of `struct`.
TYPES = {
    "int16": (1, "h"),
    "uint16": (1, "H"),
    "int32": (2, "i"),
    "uint32": (2, "I"),
    "float32": (2, "f"),
    "int64": (4, "q"),
    "uint64": (4, "Q"),
    "float64": (4, "d"),
    "bool": (1, "H"),
    "string": (None, None),
}

SCHEMA = {
    "title": "modbus-map source",
    "type": "object",
    "properties": {
        "datasource": {
            "description": "Subjects with the blocks, with commas between them.",
            "type": "string",
            "minLength": 1,
        },
        "qos": {"description": "Level of delivery asked for.", "type": "integer", "minimum": 0, "maximum": 2},
        "frame": {
            "description": "How a block comes: json ({unit, address, registers: [...]}), raw (registers, each two "
            "bytes, high byte first), rtu or tcp (the answer to a read of registers, as on the wire).",
            "enum": ["json", "raw", "rtu", "tcp"],
            "default": "json",
        },
        "address": {
            "description": "Address of a block's first register where the frame does not say (raw, rtu, tcp).",
            "type": "integer",
            "minimum": 0,
            "maximum": 65535,
            "default": 0,
        },
        "unit": {
            "description": "Only blocks of this unit; others are left out. A raw frame has no unit.",
            "type": "integer",
            "minimum": 0,
            "maximum": 255,
        },
        "unitField": {
            "description": "Name under which the unit stands in the object; empty: left out.",
            "type": "string",
            "default": "unit",
        },
        "wordOrder": {
            "description": "Of values that take several registers: big (the high word first) or little.",
            "enum": ["big", "little"],
            "default": "big",
        },
        "map": {
            "description": "What stands where.",
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"description": "Field of the object.", "type": "string", "minLength": 1},
                    "address": {"description": "First register.", "type": "integer", "minimum": 0, "maximum": 65535},
                    "type": {"description": "Type of the value.", "enum": list(TYPES)},
                    "wordOrder": {"description": "In place of the one above.", "enum": ["big", "little"]},
                    "scale": {"description": "The number is multiplied by this.", "type": "number", "default": 1},
                    "offset": {"description": "Added after scaling.", "type": "number", "default": 0},
                    "bit": {
                        "description": "bool: this bit of the register, 0 the lowest. None: any bit.",
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 15,
                    },
                    "length": {
                        "description": "string: how many registers, two characters each.",
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 125,
                    },
                },
                "required": ["name", "address", "type"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["datasource", "map"],
    "additionalProperties": False,
}


class Register:
    """One line of the map."""

    def __init__(self, line: dict, word_order: str):
        self.name, self.address, self.type = line["name"], line["address"], line["type"]
        self.length, self.letter = TYPES[self.type]
        if self.type == "string":
            if "length" not in line:
                raise Misconfigured(f"map: {self.name}: a string needs its length", "config")
            self.length = line["length"]
        self.little = line.get("wordOrder", word_order) == "little"
        self.scale, self.offset = line.get("scale", 1), line.get("offset", 0)
        self.bit = line.get("bit")
        if self.address + self.length > 65536:
            raise Misconfigured(f"map: {self.name}: goes beyond register 65535", "config")

    def decode(self, registers: list[int]):
        """The value of its registers, high word first unless it is `little`. None: not a number."""
        if self.little:
            registers = registers[::-1]
        raw = struct.pack(f">{self.length}H", *registers)
        if self.type == "string":
            return raw.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip()
        (value,) = struct.unpack(f">{self.letter}", raw)
        if self.type == "bool":
            return value != 0 if self.bit is None else bool(value >> self.bit & 1)
        if value != value or value in (float("inf"), float("-inf")):
            return None
        if self.type == "float32":
            # As many digits as it has, so that 21.3 does not become 21.299999237060547.
            value = float(f"{value:.7g}")
        if self.scale != 1 or self.offset != 0:
            value = value * self.scale + self.offset
            if isinstance(value, float):
                # A scale of 0.1 has no exact form.
                value = float(f"{value:.15g}")
        return value


class Frames:
    """Cuts a block out of a message: unit, address, registers."""

    def __init__(self, kind: str, address: int):
        self.kind, self.address = kind, address

    def block(self, payload: bytes) -> tuple:
        return getattr(self, f"_{self.kind}")(payload)

    def _json(self, payload):
        try:
            block = json.loads(payload)
        except ValueError as error:
            raise Permanent(f"the block is not JSON: {error}", "json") from None
        if not isinstance(block, dict):
            raise Permanent("the block is not an object with address and registers", "frame")
        address, registers, unit = block.get("address"), block.get("registers"), block.get("unit")
        if not _is_word(address):
            raise Permanent(f"address: {address!r} is no register", "frame")
        if not isinstance(registers, list) or not all(map(_is_word, registers)):
            raise Permanent("registers: must be a list of numbers from 0 to 65535", "frame")
        return unit, address, registers

    def _raw(self, payload, unit=None):
        if len(payload) % 2:
            raise Permanent(f"{len(payload)} bytes are no whole registers", "frame")
        return unit, self.address, list(struct.unpack(f">{len(payload) // 2}H", payload))

    def _answer(self, pdu, unit):
        """Function, number of bytes, registers."""
        if len(pdu) >= 2 and pdu[0] & 0x80:
            raise Permanent(f"the device answered with exception {pdu[1]}", f"modbus:{pdu[1]}")
        if len(pdu) < 2 or pdu[0] not in (3, 4) or pdu[1] != len(pdu) - 2:
            raise Permanent("not the answer to a read of registers (function 3 or 4)", "frame")
        return self._raw(pdu[2:], unit)

    def _rtu(self, payload):
        if len(payload) < 5 or crc16(payload) != 0:
            raise Permanent("the checksum is wrong", "crc")
        return self._answer(payload[1:-2], payload[0])

    def _tcp(self, payload):
        if len(payload) < 9 or payload[2:4] != b"\0\0" or struct.unpack(">H", payload[4:6])[0] != len(payload) - 6:
            raise Permanent("not a Modbus TCP frame", "frame")
        return self._answer(payload[7:], payload[6])


def _is_word(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def crc16(data: bytes) -> int:
    """CRC-16/MODBUS; 0 over a frame with its own checksum (low byte first) behind it."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def decode(registers: list[Register], address: int, words: list[int]) -> dict:
    """The values that lie wholly within a block."""
    values = {}
    for register in registers:
        begin = register.address - address
        if begin >= 0 and begin + register.length <= len(words):
            values[register.name] = register.decode(words[begin : begin + register.length])
    return values


class ModbusMap(Source):
    def open(self, config, resume):
        order = config.get("wordOrder", "big")
        self.registers = [Register(line, order) for line in config["map"]]
        names = [register.name for register in self.registers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise Misconfigured(f"map: {twice} stands in it twice", "config")
        self.unit_field = config.get("unitField", "unit")
        if self.unit_field in names:
            raise Misconfigured(f"unitField: {self.unit_field} is a name of the map too", "config")
        self.frames = Frames(config.get("frame", "json"), config.get("address", 0))
        self.unit = config.get("unit")
        subjects = [subject.strip() for subject in config["datasource"].split(",")]
        self.blocks = messaging("blocks").subscribe([s for s in subjects if s], qos=config.get("qos"))

    def read(self):
        batch = self.blocks.receive()
        texts, subjects = [], []
        for payload, subject in zip(payloads_of(batch), subjects_of(batch)):
            decoded = self.object(payload)
            if decoded is not None:
                texts.append(json.dumps(decoded, ensure_ascii=False))
                subjects.append(subject)
        # A block without anything of the map is settled with the others of its read.
        return messages_of(texts, subjects)

    def object(self, payload: bytes):
        """The object of a block. None: another unit's, or nothing of the map is in it."""
        unit, address, words = self.frames.block(payload)
        if self.unit is not None and unit is not None and unit != self.unit:
            return None
        values = decode(self.registers, address, words)
        if not values:
            return None
        return {self.unit_field: unit, **values} if self.unit_field and unit is not None else values


connector = Connector(
    name="modbus-map",
    version="0.1.0",
    description="Gives the registers of a Modbus device names, types and units.",
    slots=[Slot("blocks", "messaging", "Where the blocks of registers come from.")],
    source=ModbusMap,
    source_schema=SCHEMA,
)
