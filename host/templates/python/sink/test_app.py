import unittest

from app import Sites
from windlass_testing import written


class Test(unittest.TestCase):
    def test_a_message_is_published_beside_its_site_and_what_is_no_json_is_rejected(self):
        host, rejected = written(Sites, {"site": "north", "topic": "all"}, ['{"a": 1}', "no json", b"\xff"])
        self.assertEqual(host.published, [("all", '{"site": "north", "data": {"a": 1}}')])
        self.assertEqual([(one.index, one.failure.kind) for one in rejected], [(1, "permanent"), (2, "permanent")])


if __name__ == "__main__":
    unittest.main()
