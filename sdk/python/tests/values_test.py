import datetime
import unittest

import penstock
from penstock import Backoff, Task, typed
from penstock.v1 import messages_pb2 as pb
from penstock.values import TYPES, from_message, result_of, to_message


class NativeValues(unittest.TestCase):
    def test_each_kind(self):
        for value, message in [
            (True, pb.Value(bool_value=True)),
            (-5, pb.Value(int_value=-5)),
            (2**63 - 1, pb.Value(int_value=2**63 - 1)),
            (2**63, pb.Value(uint_value=2**63)),
            (2**64 - 1, pb.Value(uint_value=2**64 - 1)),
            (1.0, pb.Value(float_value=1.0)),
            ("ü", pb.Value(string_value="ü")),
            (b"\0\xff", pb.Value(bytes_value=b"\0\xff")),
            (bytearray(b"x"), pb.Value(bytes_value=b"x")),
            ([False], pb.Value(type="[]bool", bools=pb.BoolList(values=[False]))),
            ((1, 2), pb.Value(type="[]int64", ints=pb.IntList(values=[1, 2]))),
            ([1, 2**63], pb.Value(type="[]uint64", uints=pb.UintList(values=[1, 2**63]))),
            ([0.5], pb.Value(type="[]float64", floats=pb.FloatList(values=[0.5]))),
            (["a", ""], pb.Value(type="[]string", strings=pb.StringList(values=["a", ""]))),
        ]:
            with self.subTest(value=value):
                self.assertEqual(to_message(value), message)

    def test_what_cannot_be_sent(self):
        for value, error, text in [
            (2**64, ValueError, "18446744073709551616"),
            (-(2**63) - 1, ValueError, "-9223372036854775809"),
            ([], ValueError, "typed"),
            ([1, 1.5], TypeError, "float, int"),
            ([True, 1], TypeError, "bool, int"),
            ([-1, 2**63], ValueError, "-1"),
            ([b"x"], TypeError, "list of bytes"),
            ({}, TypeError, "dict"),
            (None, TypeError, "NoneType"),
            ("\ud800", ValueError, "surrogates"),
        ]:
            with self.subTest(value=value):
                with self.assertRaisesRegex(error, text):
                    to_message(value)

    def test_an_error_names_the_argument(self):
        with self.assertRaisesRegex(TypeError, "argument 2 of 'add': None"):
            Task("add", 1, None).to_message()


class TypedValues(unittest.TestCase):
    def test_there_are_29_types(self):
        self.assertEqual(len(set(TYPES)), 29)

    def test_each_type_takes_its_kind_and_gives_it_back(self):
        examples = {"bool": True, "string": "x", "float32": 0.5, "float64": 0.5}
        for name in TYPES:
            if name in ("[]byte", "[]uint8"):
                value = b"\x01\x02"
            else:
                value = examples.get(name.replace("[]", ""), 7)
                value = [value, value] if name.startswith("[]") else value
            with self.subTest(type=name):
                message = to_message(typed(name, value))
                self.assertEqual(message.type, name)
                self.assertEqual(from_message(message), value)

    def test_empty_lists(self):
        for name in TYPES:
            if name.startswith("[]"):
                self.assertFalse(from_message(to_message(typed(name, []))))

    def test_bytes_of_numbers(self):
        self.assertEqual(to_message(typed("[]uint8", [0, 255])).bytes_value, b"\x00\xff")

    def test_what_does_not_fit(self):
        for name, value, error in [
            ("int99", 1, ValueError),
            ("int8", 1.0, TypeError),
            ("int8", True, TypeError),
            ("uint8", -1, ValueError),
            ("int64", 2**63, ValueError),
            ("bool", 1, TypeError),
            ("string", b"x", TypeError),
            ("float64", "1", TypeError),
            ("[]string", "text", TypeError),
            ("[]byte", 5, TypeError),
            ("[]byte", [256], ValueError),
            ("[]int8", [1, "2"], TypeError),
        ]:
            with self.subTest(type=name, value=value):
                with self.assertRaises(error):
                    typed(name, value)


class Results(unittest.TestCase):
    def test_none_one_several(self):
        one, two = pb.Value(int_value=1), pb.Value(string_value="b")
        self.assertIsNone(result_of([]))
        self.assertEqual(result_of([one]), 1)
        self.assertEqual(result_of([one, two]), (1, "b"))


class Tasks(unittest.TestCase):
    def test_all_options(self):
        task = Task(
            "name", 1, id="id", routing_key="key", delay=1.5, retry_count=2,
            exponential_backoff=Backoff(0.5, max_delay=60, jitter=0.1), priority=3,
            immutable=True, headers={"a": "b"}, on_success=[Task("s")],
            on_error=[Task("e")], ignore_when_task_not_registered=True,
            timeout=datetime.timedelta(minutes=1), expire_after=3600, unique_key="u",
            result_ttl=7200).to_message()
        unset = {field.name for field in pb.Task.DESCRIPTOR.fields} - {
            field.name for field, _ in task.ListFields()}
        self.assertEqual(unset, {"eta", "retry_delay"})
        self.assertEqual((task.delay.seconds, task.delay.nanos), (1, 500_000_000))
        self.assertEqual(task.timeout.seconds, 60)
        self.assertEqual(task.exponential_backoff.max_delay.seconds, 60)
        self.assertEqual(task.on_error[0].name, "e")

    def test_eta_of_any_zone(self):
        zone = datetime.timezone(datetime.timedelta(hours=2))
        eta = datetime.datetime(2030, 1, 1, 2, tzinfo=zone)
        self.assertEqual(Task("x", eta=eta).to_message().eta.ToJsonString(),
                         "2030-01-01T00:00:00Z")

    def test_eta_and_delay_exclude_each_other(self):
        with self.assertRaises(ValueError):
            Task("x", eta=datetime.datetime.now(), delay=1)

    def test_a_task_has_its_own_arguments(self):
        with penstock.Client("127.0.0.1:1") as client:
            with self.assertRaises(TypeError):
                client.send(Task("add", 1), 2)


if __name__ == "__main__":
    unittest.main()
