import unittest

from app import Readings, reading
from windlass_testing import Message, reader


class Test(unittest.TestCase):
    def test_a_number_becomes_json_and_anything_else_nothing(self):
        self.assertEqual(reading(" 21.5\n", "value"), '{"value": 21.5}')
        for text in ("warm", "inf", "", None):
            self.assertIsNone(reading(text, "value"))

    def test_a_reading_goes_on_under_its_own_subject(self):
        messages = [Message(b"21.5", "in/1"), Message(b"no number", "in/1")]
        batch = reader(Readings, {"datasource": "in/#"}, messages, "broker")
        self.assertEqual([(one.subject, one.payload) for one in batch.messages()], [("in/1", b'{"value": 21.5}')])


if __name__ == "__main__":
    unittest.main()
