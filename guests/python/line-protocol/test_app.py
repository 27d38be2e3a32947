import pathlib
import tomllib
import unittest

import app
from windlass import Misconfigured, Transient
from windlass_testing import Batch, Error, Host, Kind, written

PLAIN = {"topic": "lines", "measurement": "plant"}


def lines(*messages, **config):
    host, rejected = written(app.LineProtocol, {**PLAIN, **config}, messages)
    return [text for _, text in host.published], [(one.index, one.failure.code) for one in rejected]


class Lines(unittest.TestCase):
    def test_tags_fields_and_time_stand_where_they_belong(self):
        row = '{"machine":"press","site":"b","t":21.5,"n":3,"on":true,"ts":1700000000123}'
        found, _ = lines(row, tags=["site", "machine"], timestamp="ts")
        self.assertEqual(found, ["plant,machine=press,site=b t=21.5,n=3i,on=true 1700000000123000000"])

    def test_names_and_texts_are_escaped(self):
        row = r'{"m":"a b,c","the tag":"x=y z","k,1":"say \"hi\" \\ bye"}'
        found, _ = lines(row, measurementField="m", tags=["the tag"])
        self.assertEqual(found, [r'a\ b\,c,the\ tag=x\=y\ z k\,1="say \"hi\" \\ bye"'])

    def test_a_line_end_or_a_backslash_in_a_tag_makes_no_second_line_and_escapes_nothing(self):
        found, _ = lines(r'{"t":"a\nb 9i=1 1","u":"c\\","v":1}', tags=["t", "u"])
        self.assertEqual(found, [r"plant,t=a\ b\ 9i\=1\ 1,u=c v=1i"])

    def test_nulls_are_left_out_objects_become_paths_and_lists_json(self):
        found, _ = lines('{"a":null,"b":{"c":1,"d":{"e":2.0}},"f":[1,"x"]}')
        self.assertEqual(found, [r'plant b.c=1i,b.d.e=2.0,f="[1,\"x\"]"'])

    def test_fields_may_be_chosen_and_time_may_be_carried_coarser(self):
        found, _ = lines('{"a":1,"b":2,"ts":1700000000}', fields=["b"], timestamp="ts", timestampPrecision="s", precision="ms")
        self.assertEqual(found, ["plant b=2i 1700000000000"])

    def test_integers_are_exact_to_64_bits_and_refused_beyond(self):
        found, rejected = lines('{"a":9223372036854775807}', '{"a":9223372036854775808}', message="row")
        self.assertEqual((found, rejected), (["plant a=9223372036854775807i"], [(1, "range")]))

    def test_what_makes_no_line_is_rejected_alone(self):
        messages = ["{", '{"a":1}', "{}", b"\xff", "5", '[{"a":2},{"a":NaN}]']
        found, rejected = lines(*messages)
        self.assertEqual(found, ["plant a=1i"])
        self.assertEqual(rejected, [(0, "json"), (2, "no-field"), (3, "utf-8"), (4, "row"), (5, "range")])


class Publishing(unittest.TestCase):
    ROWS = ['[{"a":1},{"a":2}]', '{"a":3}']

    def test_a_batch_is_one_message_or_one_for_each_line(self):
        self.assertEqual(lines(*self.ROWS), (["plant a=1i\nplant a=2i\nplant a=3i"], []))
        self.assertEqual(lines(*self.ROWS, message="row"), (["plant a=1i", "plant a=2i", "plant a=3i"], []))

    def _write(self, config, prepare):
        with Host() as host:
            prepare(host)
            sink = app.LineProtocol()
            sink.open({**PLAIN, **config})
            return [one.index for one in sink.write(Batch.from_texts(self.ROWS))]

    def test_a_line_that_was_not_taken_is_the_rejection_of_its_message(self):
        def reject(host):
            host.reject = {1: Error(Kind.PERMANENT, "p", "no")}

        self.assertEqual(self._write({"message": "row"}, reject), [0])

        def reject_all(host):
            host.reject = {0: Error(Kind.PERMANENT, "p", "no")}

        self.assertEqual(self._write({}, reject_all), [0, 1])

    def test_a_failure_of_the_connection_is_handed_on_as_it_is(self):
        def refuse(host):
            host.refuse = Transient("busy", "busy", 500)

        with self.assertRaises(Transient) as raised:
            self._write({}, refuse)
        self.assertEqual((raised.exception.code, raised.exception.retry_after_ms), ("busy", 500))


class Configuring(unittest.TestCase):
    def test_a_name_that_is_tag_and_field_is_misconfigured(self):
        with self.assertRaisesRegex(Misconfigured, "fields: a"):
            app.Lines({**PLAIN, "tags": ["a"], "fields": ["a"]})

    def test_name_and_version_are_those_of_the_project(self):
        project = tomllib.loads(pathlib.Path(__file__).with_name("pyproject.toml").read_text())["project"]
        self.assertEqual((app.connector.name, app.connector.version), (project["name"], project["version"]))


if __name__ == "__main__":
    unittest.main()
