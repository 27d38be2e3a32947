import unittest

import app
from windlass import Permanent
from windlass_testing import Message, reader, written

GIVEN = [Message(b"one", "a"), Message(b"", "b"), Message("zwölf".encode(), "a")]


def plain(messages):
    return [(one.subject, one.payload) for one in messages]


class Price(unittest.TestCase):
    def test_every_way_gives_on_what_came(self):
        for way in app.WAYS:
            batch = reader(app.PriceSource, {"as": way}, GIVEN, "broker")
            self.assertEqual(plain(batch.messages()), plain(GIVEN), way)

    def test_every_way_publishes_what_it_is_given(self):
        for way in app.WAYS:
            host, rejected = written(app.PriceSink, {"as": way}, GIVEN)
            self.assertEqual(host.published, [("a", "one"), ("b", ""), ("a", "zwölf")], way)
            self.assertEqual(rejected, [])

    def test_what_is_no_text_cannot_be_taken_as_text(self):
        with self.assertRaises(Permanent):
            written(app.PriceSink, {"as": "texts"}, [Message(b"\xff")])


if __name__ == "__main__":
    unittest.main()
